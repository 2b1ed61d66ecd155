//! `rackless doctor`: what this host has of what a lab needs.

use std::path::Path;

use driver::qemu::{Firmware, Qemu, choose_accel};

/// Looks, and says for each thing what is there or how to get it.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut missing = 0;
    let mut say = |what: &str, found: Result<String, String>| match found {
        Ok(text) => println!("ok       {what}: {text}"),
        Err(text) => {
            missing += 1;
            println!("missing  {what}: {text}");
        }
    };
    let qemu = runtime.block_on(Qemu::find());
    match &qemu {
        Ok(qemu) => say("QEMU", Ok(format!("{} {}", qemu.program.display(), qemu.version))),
        Err(error) => say("QEMU", Err(error.to_string())),
    }
    let firmware = Firmware::find().map(|f| f.code.display().to_string()).map_err(|e| e.to_string());
    say("UEFI firmware", firmware);
    let store = images::Store::open(images::Store::default_root());
    let image = store.as_ref().map_err(ToString::to_string).and_then(|store| {
        let found = store.cached("server").map_err(|e| e.to_string())?;
        found.ok_or_else(|| "not built yet; the first test builds it".to_owned())
    });
    if let (Ok(qemu), Ok(store)) = (&qemu, &store) {
        let kernel = image.as_ref().ok().and_then(|image| image.kernel.clone());
        let choice = runtime.block_on(choose_accel(qemu, kernel.as_deref(), &store.root().join("probes")));
        say("accelerator", choice.map(|c| format!("{}: {}", c.accel, c.reason)).map_err(|e| e.to_string()));
    }
    say("image server", image.map(|image| image.disk.display().to_string()));
    let vsock = Path::new("/dev/vhost-vsock");
    let text = match vsock.exists() {
        true => "/dev/vhost-vsock is there".to_owned(),
        false => {
            "no /dev/vhost-vsock; it is not needed, since the agent's channel is a virtserialport".to_owned()
        }
    };
    say("vsock of the host", Ok(text));
    if missing > 0 {
        anyhow::bail!("{missing} missing; `cargo xtask setup` installs what can be installed");
    }
    Ok(())
}
