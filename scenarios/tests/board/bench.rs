//! A workbench with a board on it: a QEMU of the test's own, which the driver knows nothing of. It has a pty for a serial
//! line, or a serial server before that; a script for its power; its firmware's and its boot loader's menu; and nothing but
//! a getty.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use driver::board::Board;
use driver::qemu::Firmware;
use process::{Child, Command, Stdio};
use profiles::Profile;
use scenarios::Assets;
use scenarios::prelude::*;
use shell::tty::Tty;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// How a board's line is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// By the pty itself, as by a USB adapter.
    Device,
    /// By ser2net, which speaks RFC 2217.
    Rfc2217,
}

/// What holds a board's line together. It goes with the test's runtime, after the lab has turned the board off.
struct Wire {
    line: Tty,
    board: UnixListener,
    /// The driver's end of the line, kept open over those who use it.
    _near: OwnedFd,
    _ser2net: Option<Child>,
    _sockets: tempfile::TempDir,
}

/// The boot loader's configuration in the image, and one of the same length that has it wait for somebody.
const QUICK: &[u8] = b"timeout 0\neditor no\n";
const WAITS: &[u8; QUICK.len()] = b"timeout menu-force\n\n";
/// The part of the disk that the ESP's files are in.
const ESP: u64 = 128 << 20;
/// What qemu-io writes at once.
const SECTOR: usize = 512;

/// Builds the board that stands for a machine of a profile, with a cable for its `eth1`.
pub(crate) async fn build(t: &Testbed, profile: &Profile, machine: &str, by: By) -> Result<Board> {
    let folder = t.artifacts().join("bench");
    fs_err::create_dir_all(&folder)?;
    let assets = Assets::get(t).await?;
    let image = assets.image(t, "server").await?;
    let disk = waiting_disk(&folder, &image.disk).await?;
    let firmware = Firmware::find()?;
    fs_err::copy(&firmware.vars, folder.join("vars.fd"))?;
    // Sockets have short names.
    let sockets = tempfile::Builder::new().prefix("bench").tempdir()?;
    let (uart, vde) = (sockets.path().join("uart"), sockets.path().join("vde"));
    let pty = nix::pty::openpty(None, None)?;
    let line = nix::unistd::ttyname(&pty.slave)?;
    let accel = assets.accel(t, image.kernel.as_deref()).await?;
    let mac = profile.machine(machine)?.nics[0].mac;
    let qemu = [
        assets.qemu.program.display().to_string(),
        "-no-user-config -nodefaults -display none -m 512 -machine q35,usb=off".to_owned(),
        format!(
            "-accel {} -cpu {} -action reboot=shutdown",
            accel.to_string().to_lowercase(),
            accel.cpu(true)
        ),
        format!("-drive if=pflash,unit=0,format=raw,readonly=on,file={}", firmware.code.display()),
        "-drive if=pflash,unit=1,format=raw,file=vars.fd".to_owned(),
        format!("-drive if=none,id=disk,format=qcow2,cache=unsafe,file={}", disk.display()),
        "-device virtio-blk-pci,drive=disk,bootindex=1 -device virtio-rng-pci".to_owned(),
        format!("-netdev vde,id=net,sock={} -device virtio-net-pci,netdev=net,mac={mac}", vde.display()),
        format!("-chardev socket,id=uart,path={} -serial chardev:uart", uart.display()),
    ];
    power_script(&folder, &qemu.join(" "))?;
    let (ser2net, serial) = match by {
        By::Device => (None, format!("device = {:?}\nspeed = 115200", line.display().to_string())),
        By::Rfc2217 => {
            let (child, address) = ser2net(&folder, &line).await?;
            (Some(child), format!("rfc2217 = {address:?}\nspeed = 115200"))
        }
    };
    let file = folder.join("board.toml");
    let text = format!(
        "name = \"bench-{machine}\"\n\n[serial]\n{serial}\nsilence = \"20s\"\n\n\
         [power]\non = [{power:?}, \"on\"]\noff = [{power:?}, \"off\"]\nstate = [{power:?}, \"state\"]\n\
         after_off = \"100ms\"\nwatch = \"2s\"\n{DIALOGUE}\n[uplink.eth1]\nvde = {vde:?}\n\n\
         [lock]\nfolder = {locks:?}\n",
        power = folder.join("power").display().to_string(),
        vde = vde.display().to_string(),
        locks = folder.join("locks").display().to_string(),
    );
    fs_err::write(&file, text)?;
    let (line, board) = (Tty::from_fd(pty.master)?, UnixListener::bind(&uart)?);
    let wire = Wire { line, board, _near: pty.slave, _ser2net: ser2net, _sockets: sockets };
    tokio::spawn(wire.carry_all());
    Ok(Board::load(&file)?)
}

/// The entry is chosen with the cursor, its command line edited, and booted. What is typed fits into a UART's 16 bytes:
/// firmware that is busy drawing may lose the end of a longer text, and with it the key that boots (seen once).
const DIALOGUE: &str = r#"
[boot]
within = "6m"

[[boot.dialogue]]
expect = "Reboot Into Firmware"
keys = ["down", "up"]
within = "3m"

[[boot.dialogue]]
send = "e"

[[boot.dialogue]]
expect = "root=PARTUUID"
send = "board=1 "
keys = ["enter"]
"#;

/// An overlay of the image's disk whose boot loader waits for somebody to choose.
async fn waiting_disk(folder: &Path, image: &Path) -> Result<PathBuf> {
    let overlay = folder.join("disk.qcow2");
    let create = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    process::run(create.arg(image).arg(&overlay), secs(30)).await?.checked()?;
    let mut esp = Vec::new();
    fs_err::File::open(image)?.take(ESP).read_to_end(&mut esp)?;
    let found = esp.windows(QUICK.len()).position(|window| window == QUICK);
    let offset = found.context("no loader.conf in the image's ESP")?;
    let start = offset / SECTOR * SECTOR;
    let mut sectors = esp[start..start + 2 * SECTOR].to_vec();
    sectors[offset - start..][..QUICK.len()].copy_from_slice(WAITS);
    let piece = folder.join("loader.conf.sectors");
    fs_err::write(&piece, &sectors)?;
    let write = format!("write -s {} {start} {}", piece.display(), sectors.len());
    let write = Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(&overlay);
    process::run(write, secs(30)).await?.checked()?;
    Ok(overlay)
}

/// What a relay and a power supply are to a board. QEMU is in a session of its own, or it would end with the command; its
/// number is written from there, so that the command does not end before that. A reset is another QEMU: under TCG each write to
/// memory that ran code before a reset is slow, and firmware took minutes there. QEMU does not tell a shell whether it ended by
/// a reset or a shutdown, so that this board starts again after either, as long as it has power.
fn power_script(folder: &Path, qemu: &str) -> Result {
    let text = format!(
        "#!/bin/sh\nset -u\ncd '{}' || exit 1\n\
         # The command line of what has ended and was not waited for is empty.\n\
         is_on() {{ [ -s pid ] && [ -n \"$(tr -d '\\0' <\"/proc/$(cat pid)/cmdline\" 2>/dev/null)\" ]; }}\n\
         case $1 in\n\
         on) if ! is_on; then\n\
             rm -f pid\n\
             setsid sh -c 'echo $$ >pid; while \"$@\"; do :; done' sh {qemu} </dev/null >>qemu.log 2>&1 &\n\
             until [ -s pid ]; do sleep 0.01; done\n\
         fi ;;\n\
         off) if is_on; then kill -s KILL -- \"-$(cat pid)\"; fi ;;\n\
         state) if is_on; then echo on; else echo off; fi ;;\n\
         esac\n",
        folder.display()
    );
    let path = folder.join("power");
    fs_err::write(&path, text)?;
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(())
}

impl Wire {
    /// Between the line and the board. While that is off, nobody reads what is typed.
    async fn carry_all(mut self) {
        let mut typed = [0; 4096];
        loop {
            tokio::select! {
                Ok((uart, _)) = self.board.accept() => self.carry(uart).await,
                Ok(_) = self.line.read(&mut typed) => {}
                else => return,
            }
        }
    }

    /// For as long as it has power.
    async fn carry(&mut self, mut uart: UnixStream) {
        let (mut typed, mut said) = ([0; 4096], [0; 4096]);
        loop {
            let done = tokio::select! {
                read = self.line.read(&mut typed) => match read {
                    Ok(count @ 1..) => uart.write_all(&typed[..count]).await,
                    _ => return,
                },
                read = uart.read(&mut said) => match read {
                    Ok(count @ 1..) => self.line.write_all(&said[..count]).await,
                    _ => return,
                },
            };
            if done.is_err() {
                return;
            }
        }
    }
}

/// Whether this host has the serial server.
pub(crate) fn has_ser2net() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|folder| folder.join("ser2net").is_file())
}

/// Puts ser2net before the line; answers when it takes connections.
async fn ser2net(folder: &Path, line: &Path) -> Result<(Child, String)> {
    // A port that was free a moment ago: ser2net does not say which one it took.
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let config = folder.join("ser2net.yaml");
    let text = format!(
        "connection: &board\n  accepter: telnet(rfc2217=true),tcp,127.0.0.1,{port}\n  \
         connector: serialdev,{},115200n81,local\n",
        line.display()
    );
    fs_err::write(&config, text)?;
    let log = fs_err::File::create(folder.join("ser2net.log"))?.into_parts().0;
    let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
    let command = Command::new("sh").args(["-c", "exec ser2net -n -u -c \"$1\"", "sh"]).arg(&config);
    let command = command.env("PATH", path).stdout(Stdio::File(log.try_clone()?)).stderr(Stdio::File(log));
    let child = process::spawn(command)?;
    // By proc(5) and not by connecting: it takes one connection at a time.
    let entry = format!(":{port:04X} 00000000:0000 0A");
    let listens = async || fs_err::read_to_string("/proc/net/tcp").ok()?.contains(&entry).then_some(());
    let listens = driver::poll_until(secs(20), listens).await;
    listens.with_context(|| format!("ser2net does not listen on port {port}: see ser2net.log"))?;
    Ok((child, format!("127.0.0.1:{port}")))
}
