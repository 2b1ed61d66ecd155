//! GUIDs as GPT has them: the first three groups little-endian (UEFI specification, appendix A).

/// Type of an EFI system partition (UEFI specification, 5.3.3).
pub(crate) const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Type of a root partition for x86-64 (UAPI group, Discoverable Partitions Specification).
pub(crate) const ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";

const TYPES: [(&str, &str); 10] = [
    (ESP, "EFI system"),
    (ROOT_X86_64, "root (x86-64)"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "root (arm64)"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "usr (x86-64)"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux data"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "swap"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "boot loader (XBOOTLDR)"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "variable data"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "basic data"),
];

/// What a type is called.
pub(crate) fn type_name(guid: &str) -> Option<&'static str> {
    TYPES.iter().find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// As text.
pub(crate) fn text(bytes: [u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut out = String::with_capacity(36);
    for (place, index) in order.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{:02x}", bytes[index]));
    }
    out
}

/// From text; only for the constants here and GUIDs that [`text`] made.
pub(crate) fn bytes(text: &str) -> Option<[u8; 16]> {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    if hex.len() != 32 {
        return None;
    }
    let mut read = [0; 16];
    for (index, pair) in hex.chunks(2).enumerate() {
        read[index] = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    read[..4].reverse();
    read[4..6].reverse();
    read[6..8].reverse();
    Some(read)
}

/// A GUID that follows from `seed`, so that the same recipe gives the same disk: RFC 9562, version 8.
pub(crate) fn derived(seed: &str, what: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("rackless images 2026 partition GUIDs");
    hasher.update(seed.as_bytes()).update(&[0]).update(what.as_bytes());
    let mut guid = [0; 16];
    guid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_inverse_and_mixed_endian() {
        let esp = bytes(ESP).unwrap();
        assert_eq!(esp[..4], [0x28, 0x73, 0x2a, 0xc1]);
        assert_eq!(text(esp), ESP);
        assert_eq!(bytes("not a guid"), None);
    }

    #[test]
    fn derived_guids_are_stable_and_marked_as_version_8() {
        let guid = text(derived("seed", "root"));
        assert_eq!(guid, text(derived("seed", "root")));
        assert_ne!(guid, text(derived("seed", "esp")));
        assert_eq!(guid.as_bytes()[14], b'8', "{guid}");
    }
}
