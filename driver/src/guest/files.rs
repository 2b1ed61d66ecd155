//! Files and trees both ways, digests compared.

use super::error::GuestError;
use super::session::Event;
use super::{Guest, Operation};
use agent_proto::message::{FileMeta, FileSpec, Reply, Request, SmallFile, TreeSpec};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes that a thread reads or writes at once.
const CHUNK: usize = 128 * 1024;
/// Chunks between a thread and the channel.
const AHEAD: usize = 4;
/// Small files travel in one message as long as they are together no bigger.
const BATCH: usize = 8 * 1024 * 1024;

/// How a copy arrives in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Permission bits of a file; `None` keeps those of the host's. A tree always keeps its own.
    pub mode: Option<u32>,
    /// `user`, `user:group` or `:group` of the guest; `None` is root, or who owned the file that is replaced.
    pub owner: Option<String>,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that went over the channel: the file's, or the tree's as tar.
    pub bytes: u64,
    /// Their BLAKE3, the same on both sides.
    pub digest: [u8; 32],
    /// Mode and owner in the guest, for a file that was copied from there.
    pub meta: Option<Meta>,
}

/// A file in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<FileMeta> for Meta {
    fn from(meta: FileMeta) -> Self {
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid }
    }
}

type Chunks = mpsc::Receiver<io::Result<Vec<u8>>>;

impl Guest {
    /// Copies a host's file or directory. A file appears under its name (not a directory's) when it is complete;
    /// a directory's content is unpacked into the target, beside what is there. Missing directories are made.
    ///
    /// # Errors
    ///
    /// [`GuestError::HostFile`] for the host's side, [`GuestError::Refused`] for the guest's.
    pub async fn copy_to(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<str>,
        options: CopyOptions,
        limit: Duration,
    ) -> Result<Copied, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.copy_to(from.as_ref(), to.as_ref(), options, limit).await;
        }
        let (from, path) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        let operation = format!("copy {} to {path}", from.display());
        let meta = std::fs::metadata(&from).map_err(|source| self.host_file(&operation, &from, source))?;
        let (request, chunks) = if meta.is_dir() {
            (Request::WriteTree(TreeSpec { path, owner: options.owner }), chunks_of_tree(from.clone()))
        } else {
            let mode = options.mode.or(Some(meta.permissions().mode() & 0o7777));
            let spec = FileSpec { path, mode, owner: options.owner, parents: true };
            (Request::WriteFile(spec), chunks_of_file(from.clone()))
        };
        let mut operation = self.begin(operation, request)?;
        match tokio::time::timeout(limit, send(&mut operation, chunks, &from)).await {
            Ok(sent) => sent,
            Err(_) => Err(operation.silent()),
        }
    }

    /// Writes bytes to a file in the guest, making missing directories.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the guest's system says no.
    pub async fn write_file(
        &self,
        path: impl AsRef<str>,
        content: &[u8],
        mode: u32,
        limit: Duration,
    ) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.write_file(path.as_ref(), content, mode, None, limit).await;
        }
        let path = path.as_ref().to_owned();
        let operation = format!("write {path}");
        let spec = FileSpec { path, mode: Some(mode), owner: None, parents: true };
        if content.len() <= BATCH {
            let batch = vec![SmallFile { file: spec, content: content.to_vec() }];
            return self.tell(operation, Request::WriteFiles(batch), limit).await;
        }
        let mut operation = self.begin(operation, Request::WriteFile(spec))?;
        let (sender, chunks) = mpsc::channel(AHEAD);
        let feed = async {
            for chunk in content.chunks(CHUNK) {
                if sender.send(Ok(chunk.to_vec())).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        let work = async { tokio::join!(feed, send(&mut operation, chunks, Path::new(""))).1 };
        match tokio::time::timeout(limit, work).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(operation.silent()),
        }
    }

    /// Writes many small files, in order, in as few messages as fit.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] at the first that the guest's system says no to.
    pub async fn write_files(&self, files: Vec<SmallFile>, limit: Duration) -> Result<(), GuestError> {
        if let Some(shell) = self.shell() {
            return shell.write_files(files, limit).await;
        }
        let (mut batch, mut size) = (Vec::new(), 0);
        for file in files {
            if size + file.content.len() > BATCH && !batch.is_empty() {
                self.write_batch(std::mem::take(&mut batch), limit).await?;
                size = 0;
            }
            size += file.content.len();
            batch.push(file);
        }
        self.write_batch(batch, limit).await
    }

    async fn write_batch(&self, batch: Vec<SmallFile>, limit: Duration) -> Result<(), GuestError> {
        let operation = match &batch[..] {
            [] => return Ok(()),
            [only] => format!("write {}", only.file.path),
            [first, rest @ ..] => format!("write {} and {} more", first.file.path, rest.len()),
        };
        self.tell(operation, Request::WriteFiles(batch), limit).await
    }

    /// Reads a file of the guest, also one of /proc.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if it isn't there; [`GuestError::Digest`] if bytes were lost.
    pub async fn read_file(&self, path: impl AsRef<str>, limit: Duration) -> Result<Vec<u8>, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.read_file(path.as_ref(), limit).await;
        }
        let path = path.as_ref().to_owned();
        let mut operation = self.begin(format!("read {path}"), Request::ReadFile { path })?;
        let mut content = Vec::new();
        let work = async {
            meta(&mut operation).await?;
            receive(&mut operation, Destination::Memory(&mut content)).await
        };
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map(|_| content),
            Err(_) => Err(operation.silent()),
        }
    }

    /// Copies a guest's file or directory to the host. A file appears under its name when it is complete, with the
    /// guest's mode; a directory's content is unpacked into the target. Owners become the host's user.
    ///
    /// # Errors
    ///
    /// [`GuestError::HostFile`] for the host's side, [`GuestError::Refused`] for the guest's,
    /// [`GuestError::Digest`] if bytes were lost.
    pub async fn copy_from(
        &self,
        from: impl AsRef<str>,
        to: impl AsRef<Path>,
        limit: Duration,
    ) -> Result<Copied, GuestError> {
        if let Some(shell) = self.shell() {
            return shell.copy_from(from.as_ref(), to.as_ref(), limit).await;
        }
        let (path, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        let name = format!("copy {path} to {}", to.display());
        let mut operation = self.begin(name.clone(), Request::ReadFile { path: path.clone() })?;
        let work = async {
            let meta = meta(&mut operation).await?;
            if meta.directory {
                operation = self.begin(name.clone(), Request::ReadTree { path })?;
            }
            let (sender, chunks) = mpsc::channel(AHEAD);
            let target = to.clone();
            let directory = meta.directory;
            let writing = tokio::task::spawn_blocking(move || match directory {
                true => unpack(chunks, &target),
                false => write_file(chunks, &target, meta.mode),
            });
            let received = receive(&mut operation, Destination::Thread(&sender)).await;
            if received.is_ok() {
                let _ = sender.send(Part::Complete).await;
            }
            drop(sender);
            let written = writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            // What the host says explains why no more was received.
            if let (Err(source), true) = (written, received.as_ref().map_or_else(stopped, |_| true)) {
                return Err(self.host_file(&name, &to, source));
            }
            let (bytes, digest) = received?;
            Ok(Copied { bytes, digest, meta: (!directory).then(|| meta.into()) })
        };
        let copied = tokio::time::timeout(limit, work).await;
        match copied {
            Ok(copied) => copied,
            Err(_) => Err(GuestError::Silent {
                machine: self.machine().to_owned(),
                operation: name,
                elapsed: limit,
            }),
        }
    }

    fn host_file(&self, operation: &str, path: &Path, source: io::Error) -> GuestError {
        let (machine, operation) = (self.machine().to_owned(), operation.to_owned());
        GuestError::HostFile { machine, operation, path: path.to_owned(), source }
    }
}

/// Whether receiving ended because the host's side took no more.
fn stopped(error: &GuestError) -> bool {
    matches!(error, GuestError::HostFile { .. })
}

async fn meta(operation: &mut Operation) -> Result<FileMeta, GuestError> {
    match operation.call.event().await {
        Ok(Event::Meta(meta)) => Ok(meta),
        Ok(Event::Reply(Err(failure))) => Err(operation.refused(failure)),
        Ok(other) => Err(operation.nonsense(&other)),
        Err(lost) => Err(operation.lost(lost)),
    }
}

/// Sends chunks, the digest, and waits for the reply, which may come early if the guest can't take them.
async fn send(operation: &mut Operation, mut chunks: Chunks, from: &Path) -> Result<Copied, GuestError> {
    let sender = operation.call.sender();
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    let sending = async {
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
            if !sender.data(&chunk).await {
                return Ok(());
            }
        }
        sender.end(Some(*hasher.finalize().as_bytes()));
        Ok::<(), io::Error>(())
    };
    let reply = {
        let call = &mut operation.call;
        tokio::select! {
            biased;
            reply = call.reply() => Ok(reply),
            sent = sending => match sent {
                Ok(()) => Ok(call.reply().await),
                Err(source) => Err(source),
            },
        }
    };
    match reply {
        Ok(Ok(Ok(Reply::Done))) => Ok(Copied { bytes, digest: *hasher.finalize().as_bytes(), meta: None }),
        Ok(Ok(Ok(other))) => Err(operation.nonsense(&other)),
        Ok(Ok(Err(failure))) => Err(operation.refused(failure)),
        Ok(Err(lost)) => Err(operation.lost(lost)),
        Err(source) => {
            let (machine, operation) = (operation.machine.clone(), operation.operation.clone());
            Err(GuestError::HostFile { machine, operation, path: from.to_owned(), source })
        }
    }
}

/// Where received chunks go.
enum Destination<'a> {
    Memory(&'a mut Vec<u8>),
    Thread(&'a mpsc::Sender<Part>),
}

impl Destination<'_> {
    /// False if no more is taken.
    async fn take(&mut self, chunk: Vec<u8>) -> bool {
        match self {
            Self::Memory(content) => {
                content.extend_from_slice(&chunk);
                true
            }
            Self::Thread(sender) => sender.send(Part::Data(chunk)).await.is_ok(),
        }
    }
}

/// Takes chunks to the end and compares length and digest with the agent's.
async fn receive(
    operation: &mut Operation,
    mut destination: Destination<'_>,
) -> Result<(u64, [u8; 32]), GuestError> {
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    if let Some(mut out) = operation.call.out.take() {
        while let Some(chunk) = out.next().await.map_err(|lost| operation.lost(lost))? {
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
            if !destination.take(chunk).await {
                let source = io::ErrorKind::WriteZero.into();
                let (machine, operation) = (operation.machine.clone(), operation.operation.clone());
                return Err(GuestError::HostFile { machine, operation, path: PathBuf::new(), source });
            }
        }
    }
    match operation.call.reply().await {
        Ok(Ok(Reply::Sent { bytes: sent, digest }))
            if sent == bytes && digest == *hasher.finalize().as_bytes() =>
        {
            Ok((bytes, digest))
        }
        Ok(Ok(Reply::Sent { .. })) => {
            let (machine, operation) = (operation.machine.clone(), operation.operation.clone());
            Err(GuestError::Digest { machine, operation })
        }
        Ok(Ok(other)) => Err(operation.nonsense(&other)),
        Ok(Err(failure)) => Err(operation.refused(failure)),
        Err(lost) => Err(operation.lost(lost)),
    }
}

fn chunks_of_file(path: PathBuf) -> Chunks {
    let (sender, chunks) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let read = || {
            let mut file = std::fs::File::open(path)?;
            loop {
                let mut chunk = vec![0; CHUNK];
                let count = file.read(&mut chunk)?;
                chunk.truncate(count);
                if count == 0 || sender.blocking_send(Ok(chunk)).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(error) = read() {
            let _ = sender.blocking_send(Err(error));
        }
    });
    chunks
}

fn chunks_of_tree(path: PathBuf) -> Chunks {
    let (sender, chunks) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let writer = io::BufWriter::with_capacity(CHUNK, ChunkWriter(sender.clone()));
        let mut builder = tar::Builder::new(writer);
        builder.follow_symlinks(false);
        let packed = builder.append_dir_all(".", path).and_then(|()| builder.into_inner()?.flush());
        if let Err(error) = packed {
            let _ = sender.blocking_send(Err(error));
        }
    });
    chunks
}

struct ChunkWriter(mpsc::Sender<io::Result<Vec<u8>>>);

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(data.to_vec())).map_err(gone)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the writing thread gets: without the last one, nothing appears.
enum Part {
    Data(Vec<u8>),
    Complete,
}

fn write_file(mut chunks: mpsc::Receiver<Part>, target: &Path, mode: u32) -> io::Result<()> {
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    while let Some(part) = chunks.blocking_recv() {
        match part {
            Part::Data(chunk) => file.write_all(&chunk)?,
            Part::Complete => {
                file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
                file.persist(target)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn unpack(chunks: mpsc::Receiver<Part>, target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    let mut archive = tar::Archive::new(PartReader { chunks, chunk: Vec::new(), used: 0 });
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.unpack(target)?;
    // To the end, so that the digest covers all of it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

struct PartReader {
    chunks: mpsc::Receiver<Part>,
    chunk: Vec<u8>,
    used: usize,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            match self.chunks.blocking_recv() {
                Some(Part::Data(chunk)) => (self.chunk, self.used) = (chunk, 0),
                Some(Part::Complete) | None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.used);
        buffer[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}
