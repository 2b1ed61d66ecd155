//! What of a client's options the library is given to read.

/// Where the options begin: behind the fixed fields and the cookie.
pub(super) const OPTIONS: usize = 240;

const PAD: u8 = 0;
const END: u8 = 255;

/// Whether the server reads an option, and one of this length has a meaning (RFC 2132).
fn is_read(code: u8, length: usize) -> bool {
    match code {
        // The message's type.
        53 => length == 1,
        // The address that is asked for, and the server's.
        50 | 54 => length == 4,
        // The client's host name, and what it asks for.
        12 | 55 => length > 0,
        // What the client calls itself.
        61 => length > 1,
        _ => false,
    }
}

/// A message with those of its options only that the server reads: dhcproto 0.15 panics at others whose length or value
/// is wrong, such as a static route with a prefix of 33 bits. Options end where the first is cut short.
pub(super) fn only_what_is_read(message: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut rest) = message.split_at_checked(OPTIONS)?;
    let mut kept = fixed.to_vec();
    while let Some((&code, behind)) = rest.split_first() {
        match code {
            PAD => rest = behind,
            END => break,
            _ => {
                let Some((&length, behind)) = behind.split_first() else { break };
                let Some((value, behind)) = behind.split_at_checked(length.into()) else { break };
                if is_read(code, value.len()) {
                    kept.extend([code, length]);
                    kept.extend(value);
                }
                rest = behind;
            }
        }
    }
    kept.push(END);
    Some(kept)
}
