//! Files and trees over a shell.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_proto::message::SmallFile;

use super::ShellWay;
use crate::guest::{Copied, CopyOptions, Exec, GuestError, Meta};

impl ShellWay {
    pub(in crate::guest) async fn write_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        owner: Option<&str>,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let operation = format!("write {path}");
        let shell = self.shell(&operation)?;
        self.within(&operation, limit, shell.write_file(path, content, mode, owner)).await
    }

    pub(in crate::guest) async fn write_files(
        &self,
        files: Vec<SmallFile>,
        limit: Duration,
    ) -> Result<(), GuestError> {
        for SmallFile { file, content } in files {
            let mode = file.mode.unwrap_or(0o644);
            self.write_file(&file.path, &content, mode, file.owner.as_deref(), limit).await?;
        }
        Ok(())
    }

    pub(in crate::guest) async fn read_file(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<Vec<u8>, GuestError> {
        let operation = format!("read {path}");
        let shell = self.shell(&operation)?;
        let mut content = Vec::new();
        self.within(&operation, limit, shell.read_file(path, &mut content)).await?;
        Ok(content)
    }

    pub(in crate::guest) async fn copy_to(
        &self,
        from: &Path,
        to: &str,
        options: CopyOptions,
        limit: Duration,
    ) -> Result<Copied, GuestError> {
        let operation = format!("copy {} to {to}", from.display());
        let meta = std::fs::metadata(from).map_err(|source| self.host_file(&operation, from, source))?;
        let (path, directory) = (from.to_owned(), meta.is_dir());
        let content = self
            .blocking(&operation, from, move || if directory { pack(&path) } else { std::fs::read(path) });
        let content = content.await?;
        if directory {
            // A name that no tree has beside it; the words of a script are quoted by being its arguments.
            let part = format!("{}.rackless.tar", to.trim_end_matches('/'));
            self.write_file(&part, &content, 0o600, None, limit).await?;
            let script = "mkdir -p \"$1\" && tar -C \"$1\" -xpf \"$2\" && rm -f \"$2\" && \
                          { [ -z \"$3\" ] || chown -R \"$3\" \"$1\"; }";
            let owner = options.owner.unwrap_or_default();
            let exec = Exec::argv(["sh", "-euc", script, "sh", to, &part, &owner]);
            self.checked(&operation, exec, limit).await?;
        } else {
            let mode = options.mode.unwrap_or(meta.permissions().mode() & 0o7777);
            self.write_file(to, &content, mode, options.owner.as_deref(), limit).await?;
        }
        Ok(copied(&content, None))
    }

    pub(in crate::guest) async fn copy_from(
        &self,
        from: &str,
        to: &Path,
        limit: Duration,
    ) -> Result<Copied, GuestError> {
        let operation = format!("copy {from} to {}", to.display());
        let shell = self.shell(&operation)?;
        let meta = self.within(&operation, limit, shell.stat(from)).await?;
        let target = to.to_owned();
        if meta.directory {
            let content =
                self.checked(&operation, Exec::argv(["tar", "-C", from, "-cf", "-", "."]), limit).await?;
            let result = copied(&content, None);
            self.blocking(&operation, to, move || unpack(&content, &target)).await?;
            return Ok(result);
        }
        let content = self.read_file(from, limit).await?;
        let kept = Meta { mode: meta.mode, uid: meta.uid, gid: meta.gid };
        let result = copied(&content, Some(kept));
        self.blocking(&operation, to, move || write(&content, &target, meta.mode)).await?;
        Ok(result)
    }

    /// A command of the driver's own, which must succeed; its stdout.
    pub(super) async fn checked(
        &self,
        operation: &str,
        exec: Exec,
        limit: Duration,
    ) -> Result<Vec<u8>, GuestError> {
        let output = self.run(exec, limit).await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(GuestError::Command {
            machine: self.machine.clone(),
            operation: operation.to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Work on the host's files, on a thread that may wait.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        operation: &str,
        path: &Path,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, GuestError> {
        let done =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        done.map_err(|source| self.host_file(operation, path, source))
    }

    fn host_file(&self, operation: &str, path: &Path, source: io::Error) -> GuestError {
        let (machine, operation, path) = (self.machine.clone(), operation.to_owned(), PathBuf::from(path));
        GuestError::HostFile { machine, operation, path, source }
    }
}

fn copied(content: &[u8], meta: Option<Meta>) -> Copied {
    Copied { bytes: content.len() as u64, digest: *blake3::hash(content).as_bytes(), meta }
}

fn pack(path: &Path) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", path)?;
    builder.into_inner()
}

fn unpack(content: &[u8], target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    let mut archive = tar::Archive::new(content);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.unpack(target)
}

fn write(content: &[u8], target: &Path, mode: u32) -> io::Result<()> {
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.persist(target)?;
    Ok(())
}
