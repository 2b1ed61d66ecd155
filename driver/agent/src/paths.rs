//! Told by inotify when something about a path changes.

use crate::watched::watched;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches the nearest directory above a path that exists, for the name that leads to it.
pub(crate) struct PathEvents {
    path: PathBuf,
    inotify: Option<AsyncFd<Events>>,
    watch: Option<Watch>,
}

struct Watch {
    directory: PathBuf,
    /// The one of its entries that matters.
    name: OsString,
    descriptor: WatchDescriptor,
}

struct Events(Inotify);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The nearest directory above `path` that exists, and what comes next on the way.
fn nearest(path: &Path) -> Option<(&Path, OsString)> {
    let mut below = path;
    for directory in path.ancestors().skip(1) {
        if directory.is_dir() {
            return Some((directory, below.file_name()?.to_owned()));
        }
        below = directory;
    }
    None
}

impl PathEvents {
    /// Nothing is watched before [`PathEvents::arm`].
    pub(crate) fn new(path: &str) -> Self {
        let init = || {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            watched(Events(inotify), Interest::READABLE)
        };
        // A guest that has used up its inotify instances is one whose paths are only looked at now and then.
        let inotify = Path::new(path).is_absolute().then(|| init().ok()).flatten();
        Self { path: path.into(), inotify, watch: None }
    }

    /// Watches what is nearest now. What happens from here on is told, so that a look may follow.
    pub(crate) fn arm(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        // A directory that comes while a watch is added above it would be missed: look again until it is the nearest.
        while let Some((directory, name)) = nearest(&self.path) {
            if self.watch.as_ref().is_some_and(|watch| watch.directory == directory && watch.name == name) {
                return;
            }
            if let Some(old) = self.watch.take() {
                let _ = inotify.get_ref().0.rm_watch(old.descriptor);
            }
            let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
            let itself =
                AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
            match inotify.get_ref().0.add_watch(directory, entries | gone | itself) {
                Ok(descriptor) => {
                    self.watch = Some(Watch { directory: directory.to_owned(), name, descriptor })
                }
                // It went away again, or takes no watch: the next look tries anew.
                Err(_) => return,
            }
        }
    }

    /// Resolves when something happened to the watched name or its directory. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let happened = async {
            let inotify = self.inotify.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            loop {
                let mut guard = inotify.readable().await?;
                let Ok(events) = guard.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) else {
                    continue;
                };
                let events = events?;
                let (mut ours, mut over) = (false, false);
                for event in &events {
                    let now = self.watch.as_ref().filter(|watch| watch.descriptor == event.wd);
                    let named = event.name.as_ref();
                    ours |= now.is_some_and(|watch| named.is_none_or(|name| *name == watch.name));
                    // The directory itself went away or moved; its watch is no good any more.
                    over |= now.is_some() && named.is_none();
                    ours |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                }
                if over && let Some(old) = self.watch.take() {
                    let _ = inotify.get_ref().0.rm_watch(old.descriptor);
                }
                if ours {
                    return Ok::<(), io::Error>(());
                }
            }
        };
        if happened.await.is_err() {
            self.inotify = None;
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    async fn told(events: &mut PathEvents) -> bool {
        tokio::time::timeout(Duration::from_secs(20), events.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_is_told_of_through_directories_that_come_later() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("one/two/file");
        let mut events = PathEvents::new(&file.display().to_string());
        events.arm();
        assert_eq!(nearest(&file).unwrap().0, root.path());
        fs::create_dir(root.path().join("one")).unwrap();
        assert!(told(&mut events).await, "the first directory");
        fs::create_dir(root.path().join("one/two")).unwrap();
        events.arm();
        fs::write(root.path().join("one/two/other"), "").unwrap();
        fs::write(&file, "").unwrap();
        assert!(told(&mut events).await, "the file");
        fs::remove_file(&file).unwrap();
        events.arm();
        assert!(told(&mut events).await, "its end");
        fs::remove_dir_all(root.path().join("one")).unwrap();
        assert!(told(&mut events).await, "its directory's end");
        events.arm();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert!(told(&mut events).await, "the directory again");
    }

    #[tokio::test]
    async fn other_names_are_not_told() {
        let root = tempfile::tempdir().unwrap();
        let mut events = PathEvents::new(&root.path().join("file").display().to_string());
        events.arm();
        for number in 0..100 {
            fs::write(root.path().join(format!("other-{number}")), "").unwrap();
        }
        let told = tokio::time::timeout(Duration::from_millis(50), events.changed()).await;
        assert!(told.is_err());
    }
}
