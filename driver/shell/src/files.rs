//! Files both ways, in pieces that are asked for and checked one by one, and checked as a whole at the end.

use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Refusal};
use crate::frame::hex;
use crate::guest::quote;
use crate::line::Shell;

/// Bytes of a piece that is written: as a line it is read by the guest's shell a byte at a time, in one go.
pub(crate) const PUT: usize = 12 << 10;
/// Pieces begin at multiples of this: `dd` counts in it.
const BLOCK: usize = 512;
/// The largest piece that is fetched, as a line still below [`crate::frame::LINE_MAX`].
const PIECE_MAX: usize = 128 << 10;
/// After so many pieces without trouble they become larger again. A request costs the guest a dozen forks whatever it
/// fetches, so that one piece in four may be lost before smaller ones are cheaper.
const EASY: u32 = 3;

/// A file in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMeta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether it is a directory.
    pub directory: bool,
}

impl Shell {
    /// What there is at a path.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is nothing, or the line's.
    pub async fn stat(&self, path: &str) -> Result<FileMeta, Error> {
        let operation = format!("look at {path}");
        let name = quote(path);
        let code =
            format!("[ -e {name} ] || {{ echo no file {name}; false; }} && stat -L -c '%a %u %g %f' {name}");
        let reply = self.ask(&operation, &code, &[]).await?;
        if reply.status != 0 {
            return Err(self.refused(&operation, Refusal::NotFound, &reply.text()));
        }
        let text = reply.text();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let meta = match words[..] {
            [mode, uid, gid, kind] => read_meta(mode, uid, gid, kind),
            _ => None,
        };
        meta.ok_or_else(|| self.refused(&operation, Refusal::Failed, &text))
    }

    /// Reads a file, also one of /proc. What `content` holds already is taken as its beginning, so that a file whose
    /// reading was cut short goes on where it was: after an error `content` has what had come.
    ///
    /// # Errors
    /// [`Error::Refused`] if it can't be read, [`Error::Digest`] if it changed meanwhile, and those of the line.
    pub async fn read_file(&self, path: &str, content: &mut Vec<u8>) -> Result<(), Error> {
        let operation = format!("read {path}");
        let name = quote(path);
        // A file of /proc has no length before it was read: it is read once, into a copy.
        let copy = format!("\"$D\"/copy-{}", hex(&Sha256::digest(path.as_bytes())[..6]));
        let code = format!(
            "z() {{\n[ -e {name} ] || {{ echo no file {name}; return 41; }}\n[ ! -d {name} ] || {{ echo {name} is a \
             directory; return 42; }}\nF={name}; [ -s {name} ] || {{ cat {name} >{copy} || return 42; F={copy}; }}\n\
             [ -r \"$F\" ] || {{ echo {name} can not be read; return 42; }}\n\
             echo $(n \"$F\") $(sha256sum <\"$F\") \"$F\"\n}}\nz"
        );
        let reply = self.ask(&operation, &code, &[]).await?;
        match reply.status {
            0 => {}
            41 => return Err(self.refused(&operation, Refusal::NotFound, &reply.text())),
            _ => return Err(self.refused(&operation, Refusal::Failed, &reply.text())),
        }
        let text = reply.text();
        let mut words = text.splitn(4, ' ');
        let length = words.next().and_then(|word| word.parse().ok());
        let (Some(length), Some(digest), Some(file)) = (length, words.next(), words.nth(1)) else {
            return Err(self.refused(&operation, Refusal::Failed, &text));
        };
        self.get(&operation, file, length, content).await?;
        let got = hex(&Sha256::digest(&*content));
        if got != digest {
            content.clear();
            let problem = format!(
                "{length} bytes of SHA-256 {got} came, the guest had {digest}: did it change meanwhile?"
            );
            return Err(Error::Digest { machine: self.machine().to_owned(), operation, problem });
        }
        Ok(())
    }

    /// Fetches the first `length` bytes of a file, from what `content` has on.
    pub(crate) async fn get(
        &self,
        operation: &str,
        path: &str,
        length: usize,
        content: &mut Vec<u8>,
    ) -> Result<(), Error> {
        content.truncate(length / BLOCK * BLOCK);
        let whole_blocks = content.len() / BLOCK * BLOCK;
        content.truncate(whole_blocks);
        let (mut trouble, mut easy) = (0, 0);
        while content.len() < length {
            let piece = self.piece();
            let wanted = piece.min(length - content.len());
            let (skip, count) = (content.len() / BLOCK, wanted.div_ceil(BLOCK));
            let code = format!("dd if={} bs={BLOCK} skip={skip} count={count} 2>/dev/null", quote(path));
            match self.ask_within(operation, &code, &[], 1).await {
                Ok(reply) if reply.status == 0 && reply.output.len() >= wanted => {
                    content.extend_from_slice(&reply.output[..wanted]);
                    (trouble, easy) = (0, easy + 1);
                    if easy == EASY {
                        easy = 0;
                        self.set_piece(piece * 2);
                    }
                }
                Ok(reply) => {
                    let problem = format!(
                        "{wanted} bytes were asked for at {}, {} came: {path} is shorter than it was",
                        content.len(),
                        reply.output.len()
                    );
                    let (machine, operation) = (self.machine().to_owned(), operation.to_owned());
                    return Err(Error::Digest { machine, operation, problem });
                }
                Err(error @ Error::Closed { .. }) => return Err(error),
                Err(error) => {
                    // A smaller piece has more luck. Each size gets its attempts, the smallest more of them.
                    trouble += 1;
                    easy = 0;
                    if trouble > self.inner.options.attempts + (PIECE_MAX / BLOCK).ilog2() {
                        return Err(error);
                    }
                    self.set_piece(piece / 2);
                }
            }
        }
        Ok(())
    }

    fn set_piece(&self, piece: usize) {
        let most = PIECE_MAX.min(self.inner.options.piece.max(BLOCK)) / BLOCK * BLOCK;
        self.inner.piece.store(piece.clamp(BLOCK, most), Ordering::Relaxed);
    }

    /// Writes a file: it appears under its name when it is complete. Missing directories are made. What an earlier call
    /// with the same content had written before it failed is not written again.
    ///
    /// `owner` is `user`, `user:group` or `:group`, or nothing for who the shell is.
    ///
    /// # Errors
    /// [`Error::Refused`] if the guest's system says no, and those of the line.
    pub async fn write_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        owner: Option<&str>,
    ) -> Result<(), Error> {
        let operation = format!("write {path}");
        let digest = hex(&Sha256::digest(content));
        let part = format!("{path}.{}.part", &digest[..12]);
        self.put(&operation, &part, content).await?;
        let (name, part) = (quote(path), quote(&part));
        let owner = owner.map_or_else(String::new, |owner| format!("chown {} {part} && ", quote(owner)));
        // Said again, it finds its own work done.
        let code = format!(
            "z() {{\n[ ! -d {name} ] || {{ rm -f {part}; echo {name} is a directory; return 42; }}\n[ -e {part} ] || return 0\n\
             {owner}chmod {mode:o} {part} && mv -f {part} {name}\n}}\nz"
        );
        self.tell(&operation, &code, &[]).await.map(drop)
    }

    /// Writes a file in place, piece by piece, and compares digests.
    pub(crate) async fn put(&self, operation: &str, path: &str, content: &[u8]) -> Result<(), Error> {
        let name = quote(path);
        let code = format!(
            "P={name}; case $P in */*) mkdir -p \"${{P%/*}}\" || (exit 42) ;; esac && {{ [ -e {name} ] || : >{name}; }} && \
             echo $(n {name}) $(sha256sum <{name})"
        );
        let there = self.tell(operation, &code, &[]).await?;
        let mut done = begun(&there.text(), content);
        if done == 0 && !there.text().starts_with("0 ") {
            self.tell(operation, &format!(": >{name}"), &[]).await?;
        }
        while done < content.len() {
            let piece = &content[done..(done + PUT).min(content.len())];
            let seek = done / BLOCK;
            let code = format!(
                "printf %s \"$X\" | base64 -d | dd of={name} bs={BLOCK} seek={seek} conv=notrunc 2>/dev/null"
            );
            self.tell(operation, &code, piece).await?;
            done += piece.len();
        }
        let said = self.tell(operation, &format!("echo $(n {name}) $(sha256sum <{name})"), &[]).await?.text();
        let wanted = format!("{} {}", content.len(), hex(&Sha256::digest(content)));
        if said.starts_with(&wanted) {
            return Ok(());
        }
        let problem = format!("{wanted} was sent, the guest has {said} (length, SHA-256); is its disk full?");
        Err(Error::Digest { machine: self.machine().to_owned(), operation: operation.to_owned(), problem })
    }
}

/// How much of `content` an earlier attempt has left in the guest, by the length and digest of what is there.
fn begun(said: &str, content: &[u8]) -> usize {
    let mut words = said.split_ascii_whitespace();
    let length =
        words.next().and_then(|word| word.parse::<usize>().ok()).filter(|&length| length <= content.len());
    match (length, words.next()) {
        (Some(length), Some(digest)) if hex(&Sha256::digest(&content[..length])) == digest => {
            length / BLOCK * BLOCK
        }
        _ => 0,
    }
}

/// `stat -c '%a %u %g %f'`: the last is the raw mode in hexadecimal.
fn read_meta(mode: &str, uid: &str, gid: &str, kind: &str) -> Option<FileMeta> {
    Some(FileMeta {
        mode: u32::from_str_radix(mode, 8).ok()?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        directory: u32::from_str_radix(kind, 16).ok()? & 0o170_000 == 0o040_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_not_sent_again() {
        let content = vec![7; 3000];
        let said = |length: usize| format!("{length} {} -", hex(&Sha256::digest(&content[..length])));
        assert_eq!(begun(&said(0), &content), 0);
        assert_eq!(begun(&said(1500), &content), 1024);
        assert_eq!(begun(&said(3000), &content), 2560);
        assert_eq!(begun("3000 0000 -", &content), 0);
        assert_eq!(begun("4000 0000 -", &content), 0);
    }

    #[test]
    fn a_mode_tells_directories() {
        let meta = read_meta("755", "0", "5", "41ed").unwrap();
        assert!(meta.directory && meta.mode == 0o755 && meta.gid == 5);
        assert!(!read_meta("644", "0", "0", "81a4").unwrap().directory);
    }
}
