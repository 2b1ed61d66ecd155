//! The archive that an initrd is: cpio, "newc" format (Linux, Documentation/driver-api/early-userspace).

/// An archive in memory.
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_600;

impl Cpio {
    pub(crate) fn new() -> Cpio {
        Cpio { bytes: Vec::new(), inode: 0 }
    }

    /// A directory; its parents must have been added.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// A character device, readable and writable by root.
    pub(crate) fn character(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER, (major, minor), &[]);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("files of an initrd are small");
        let name = u32::try_from(path.len() + 1).expect("paths of an initrd are short");
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_110_bytes_and_everything_lies_on_multiples_of_4() {
        let mut cpio = Cpio::new();
        cpio.directory("bin");
        cpio.file("init", 0o755, b"#!");
        let bytes = cpio.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ED"), "{text}");
        assert_eq!(bytes.len() % 4, 0);
        // The second header follows the first header, "bin\0" and padding: 110 + 4 = 114, rounded up to 116.
        assert_eq!(&bytes[116..122], b"070701");
        assert!(text.contains("TRAILER!!!"));
    }
}
