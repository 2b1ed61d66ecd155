//! The client against QEMU itself, where it is installed.

use std::time::Duration;

use process::{Command, RunDir, Stdio};
use qmp::commands::{query_status, quit};
use qmp::{Client, Options};
use tokio::net::UnixListener;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_machine_without_anything() {
    let run = RunDir::create(&format!("qmp-{}", std::process::id())).unwrap();
    let path = run.socket("qmp.sock").unwrap();
    // QEMU connects to us, so that there is no moment in which its socket does not exist yet.
    let listener = UnixListener::bind(&path).unwrap();
    let command = Command::new("qemu-system-x86_64")
        .args(["-M", "none", "-nodefaults", "-nographic", "-S", "-chardev"])
        .arg(format!("socket,id=qmp,path={}", path.display()))
        .args(["-mon", "chardev=qmp,mode=control"])
        .stdout(Stdio::Null);
    let qemu = match process::spawn(command) {
        Err(error @ process::Error::NotFound { .. }) => {
            eprintln!("not run: {error}");
            return;
        }
        qemu => qemu.unwrap(),
    };
    let (stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let client = Client::connect(stream, Options { limit: LIMIT, ..Options::new("none") }).await.unwrap();

    assert!(client.version().major >= 7, "{}", client.version());
    assert!(!client.execute(query_status {}).await.unwrap().running);
    assert!(client.has_command("screendump").await.unwrap());
    assert!(!client.has_command("no-such-command").await.unwrap());
    assert!(client.has_device("virtio-net-pci").await.unwrap());
    assert!(!client.has_device("no-such-device").await.unwrap());
    assert!(client.has_object("memory-backend-memfd").await.unwrap());
    assert!(client.device_properties("virtio-net-pci").await.unwrap().contains("mac"));
    assert!(client.has_migration_capability("events").await.unwrap());
    assert!(
        client
            .execute_raw("no-such-command", serde_json::Value::Null)
            .await
            .unwrap_err()
            .is_unknown_command()
    );

    client.execute(quit {}).await.unwrap();
    client.wait_event("SHUTDOWN", 0, LIMIT, |event| event.name == "SHUTDOWN").await.unwrap();
    assert!(client.closed().await.is_lost());
    let status = tokio::time::timeout(LIMIT, qemu.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}
