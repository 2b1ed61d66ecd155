//! Opening tap devices and packet(7) sockets: ioctls and addresses that neither std nor nix has a safe call for.
#![allow(
    unsafe_code,
    reason = "TUNSETIFF, SIOC?IFFLAGS, bind to a sockaddr_ll and the options of packet(7) take C structures"
)]

use std::ffi::{CStr, c_int};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// Where taps come from.
pub(super) const TUN: &str = "/dev/net/tun";

/// A request about the interface of this name.
fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is integers and a union of plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if interface.is_empty() || interface.len() > room || interface.bytes().any(|byte| byte == 0) {
        let problem = format!("\"{interface}\" can't be an interface's name: it has 1 to {room} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a tap, and says what it is called.
pub(super) fn tap(interface: &str) -> io::Result<(File, String)> {
    let mut request = request(interface)?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let name = request.ifr_name.map(|byte| byte as u8);
    let name = CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned());
    Ok((file, name.unwrap_or_default()))
}

/// Sets an interface up, unless it is.
pub(super) fn set_up(interface: &str) -> io::Result<()> {
    let mut request = request(interface)?;
    let any = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: SIOCGIFFLAGS and SIOCSIFFLAGS read and write one ifreq, which outlives the calls.
    check(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: SIOCGIFFLAGS has written this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::IFF_UP as libc::c_short;
    if flags & up == 0 {
        request.ifr_ifru.ifru_flags = flags | up;
        // SAFETY: as above.
        check(unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
    }
    Ok(())
}

/// Opens a socket that gets every frame which comes in by an interface, with what the kernel took off it: the VLAN tag in
/// a control message, and what it left undone in a header. The interface takes frames for any address while it is open.
pub(super) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let mut request = request(interface)?;
    // Protocol 0 until it is bound: else frames of all interfaces would come.
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW)?;
    // SAFETY: SIOCGIFINDEX reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) })?;
    // SAFETY: SIOCGIFINDEX has written this member of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    let on: c_int = 1;
    set(&socket, libc::PACKET_AUXDATA, &on)?;
    set(&socket, libc::PACKET_VNET_HDR, &on)?;
    // What the host itself sends by the interface is not for the switch. Linux 4.20; without it, each is looked at.
    if let Err(error) = set(&socket, libc::PACKET_IGNORE_OUTGOING, &on) {
        tracing::debug!(%error, "the kernel shows the switch what the host sends");
    }
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a sockaddr_ll is integers, for which zeroes are a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address outlives the call, and the length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: a packet_mreq is integers, for which zeroes are a value.
    let mut promiscuous: libc::packet_mreq = unsafe { std::mem::zeroed() };
    promiscuous.mr_ifindex = index;
    promiscuous.mr_type = libc::PACKET_MR_PROMISC as u16;
    set(&socket, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    Ok(socket)
}

fn socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let socket = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Sets an option of packet(7) that takes a `T`.
fn set<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value outlives the call, and the length is its own.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, value, length) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        for wrong in ["", "sixteen-bytes-xx", "a\0b"] {
            let told = set_up(wrong).unwrap_err().to_string();
            assert!(told.contains("1 to 15 bytes"), "{told}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        assert_eq!(set_up("rackless-none").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        set_up("lo").expect("it is up, or this is root");
    }
}
