//! What the channel promises of systemd's units, where the guest has a systemd.

use super::{Room, same, text};
use crate::guest::{Exec, FailureKind, GuestError};

pub(super) async fn a_failed_unit_ends_the_wait(room: &Room) -> Result<(), String> {
    if !room.has_systemd().await? {
        return Ok(());
    }
    let unit = "rackless-suite-fails.service";
    // A oneshot is never active before its command has ended; a simple unit would be, for a moment.
    let kind = "--property=Type=oneshot";
    let run = ["systemd-run", "--quiet", "--no-block", kind, "--unit", unit];
    let start = run.into_iter().chain(["sh", "-c", "echo last words; exit 3"]);
    room.run(Exec::argv(start)).await?;
    let waited = room.guest.wait_for_unit(unit, room.limit).await;
    let failed = room.guest.units_failed(room.limit).await.map_err(text)?;
    room.run(Exec::argv(["systemctl", "reset-failed", unit])).await?;
    same("listed", failed.iter().any(|failed| failed.name == unit), true)?;
    match waited {
        Err(error @ GuestError::Impossible { .. }) if error.to_string().contains("last words") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

pub(super) async fn a_unit_is_waited_for_while_it_starts(room: &Room) -> Result<(), String> {
    if !room.has_systemd().await? {
        return Ok(());
    }
    let unit = "rackless-suite-starts.service";
    // It is activating until the file is there, and active from then on.
    let (file, script) = (room.path("go"), "until test -e \"$0\"; do sleep 0.01; done");
    let kind = ["--property=Type=oneshot", "--property=RemainAfterExit=yes"];
    let run =
        ["systemd-run", "--quiet", "--no-block", kind[0], kind[1], "--unit", unit, "sh", "-c", script, &file];
    room.run(Exec::argv(run)).await?;
    room.guest.wait_for_unit_state(unit, "activating", room.limit).await.map_err(text)?;
    let wait = async { room.guest.wait_for_unit(unit, room.limit).await.map_err(text) };
    let go = async { room.guest.write_file(&file, b"", 0o600, room.limit).await.map_err(text) };
    let (waited, went) = futures::join!(wait, go);
    waited.and(went)?;
    let wait = async { room.guest.wait_for_unit_state(unit, "inactive", room.limit).await.map_err(text) };
    let (waited, stopped) = futures::join!(wait, room.run(Exec::argv(["systemctl", "stop", unit])));
    waited.and(stopped.map(drop))
}

pub(super) async fn units_start_stop_and_have_properties(room: &Room) -> Result<(), String> {
    if !room.has_systemd().await? {
        return Ok(());
    }
    let unit = "rackless-suite-jobs.service";
    let file = format!("/run/systemd/system/{unit}");
    let content = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=false\n";
    room.guest.write_file(&file, content.as_bytes(), 0o644, room.limit).await.map_err(text)?;
    room.run(Exec::argv(["systemctl", "daemon-reload"])).await?;
    let checked = async {
        let active = async || room.guest.unit_property(unit, "ActiveState", room.limit).await.map_err(text);
        same("before", active().await?, "inactive".to_owned())?;
        room.guest.start_job(unit, room.limit).await.map_err(text)?;
        same("started", active().await?, "active".to_owned())?;
        let info = room.guest.unit_info(unit, room.limit).await.map_err(text)?;
        for (name, value) in [("Type", "oneshot"), ("ActiveState", "active"), ("FragmentPath", &*file)] {
            same(name, info.get(name).map(String::as_str), Some(value))?;
        }
        match room.guest.unit_property(unit, "NoSuchProperty", room.limit).await {
            Err(GuestError::Refused { kind: FailureKind::NotFound, .. }) => {}
            other => return Err(format!("{other:?}")),
        }
        room.guest.stop_job(unit, room.limit).await.map_err(text)?;
        same("its ExecStop failed", active().await?, "failed".to_owned())?;
        match room.guest.start_job("rackless-suite-missing.service", room.limit).await {
            Err(error @ GuestError::Command { .. }) if error.to_string().contains("not found") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    let checked: Result<(), String> = checked.await;
    let clean = format!("rm {file}; systemctl daemon-reload; systemctl reset-failed {unit} || true");
    room.run(Exec::shell(clean)).await?;
    checked
}
