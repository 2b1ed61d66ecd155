//! What is left of the frames that crossed.

use harness::Class;
use scenarios::prelude::*;

use crate::run::{Ended, Fixture};

/// After a failure the latest, by default; all or none when the command line or the environment says so.
pub(crate) async fn left(t: &mut Testbed) -> Result {
    let (passes, fails) = ("frames_cross", "frames_cross_and_it_fails");
    let failed = Fixture::of(t, fails)?.run().await?;
    failed.failed(Class::Product, &["frames crossed"])?;
    expect(&failed, Some(true), Some(true))?;
    let events = fs_err::read_to_string(failed.folder.join("events.jsonl"))?;
    ensure!(events.contains("net/simple.pcapng: the latest "), "no event tells of the capture: {events}");

    let passed = Fixture::of(t, passes)?.run().await?;
    ensure!(passed.output.success(), "{}", passed.said());
    expect(&passed, None, None)?;

    let whole = Fixture::of(t, passes)?.in_run("again").args(&["--capture", "whole"]).run().await?;
    ensure!(whole.output.success(), "{}", whole.said());
    expect(&whole, Some(true), None)?;
    let off = Fixture::of(t, fails)?.in_run("again").env("RACKLESS_CAPTURE", "off").run().await?;
    expect(&off, None, None)
}

/// Whether the file of the whole switch and that of its port are there, and have the frame.
fn expect(ended: &Ended, switch: Option<bool>, port: Option<bool>) -> Result {
    for (file, expected) in [("simple.pcapng", switch), ("server-1.eth1.pcapng", port)] {
        let path = ended.folder.join("net").join(file);
        let bytes = fs_err::read(&path).ok();
        let has = bytes.map(|bytes| bytes.windows(13).any(|bytes| bytes == b"from server-1"));
        ensure!(has == expected, "{}: {has:?}, and not {expected:?}: {}", path.display(), ended.said());
    }
    Ok(())
}
