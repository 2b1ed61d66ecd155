//! The unit that starts the agent.

use std::fmt::Write as _;

use super::{AGENT_FILE, AGENT_SERIAL};

/// Where the agent's disk is mounted: a mount of its own, since `/run` may be noexec.
const MOUNT: &str = "/run/rackless/agent";

/// Finds the disk by its serial, not by udev's links: they come late. The driver may be a module. The mount is detached
/// before the agent starts, which keeps it busy to the very end of a shutdown: systemd would call it a failed unit.
fn finder(arguments: &[String]) -> String {
    let run = command_line(&format!("./{AGENT_FILE}"), arguments);
    format!(
        r#"modprobe -q virtio_blk; modprobe -q virtio_console; tries=0;
until [ -x {MOUNT}/{AGENT_FILE} ]; do
for serial in /sys/block/*/serial; do
[ "$(cat "$serial" 2>/dev/null)" = {AGENT_SERIAL} ] || continue;
disk="${{serial%/serial}}"; mkdir -p {MOUNT};
mount -t ext4 -o ro "/dev/${{disk##*/}}" {MOUNT};
done;
tries=$((tries + 1)); [ "$tries" -lt 600 ] || {{ echo "no disk with the serial {AGENT_SERIAL}" >&2; exit 1; }};
[ -x {MOUNT}/{AGENT_FILE} ] || sleep 0.1;
done;
cd {MOUNT} && umount -l {MOUNT};
exec {run}"#
    )
}

/// The unit for an agent on a disk of its own.
pub(super) fn from_disk(arguments: &[String]) -> String {
    let script = escape(&finder(arguments).replace('\n', " "));
    unit(&format!("/bin/sh -c '{script}'"))
}

/// The unit for an agent that was written into the image.
pub(super) fn from_image(path: &str, arguments: &[String]) -> String {
    unit(&escape(&command_line(path, arguments)))
}

fn command_line(program: &str, arguments: &[String]) -> String {
    let mut line = program.to_owned();
    for argument in arguments {
        let _ = write!(line, " {argument}");
    }
    line
}

/// In a unit `$` begins a variable and `%` a specifier (systemd.service(5), "Command lines").
fn escape(text: &str) -> String {
    text.replace('%', "%%").replace('$', "$$")
}

/// It has no default dependencies: it is there before sysinit.target, and until the very end of a shutdown.
fn unit(start: &str) -> String {
    format!(
        "[Unit]\n\
         Description=Rackless guest agent\n\
         DefaultDependencies=no\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={start}\n\
         Restart=always\n\
         RestartSec=500ms\n\
         OOMScoreAdjust=-900\n\
         TasksMax=infinity\n\
         LimitNOFILE=65536\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A syntax error shows only in a guest that never answers: a shell reads the script here.
    #[test]
    fn the_script_is_one_that_a_shell_can_read() {
        let command = process::Command::new("/bin/sh").args(["-n", "-c", &finder(&[]).replace('\n', " ")]);
        let output = process::run_blocking(command, std::time::Duration::from_secs(20)).unwrap();
        assert!(output.success(), "{}", output.stderr_text());
        assert!(!finder(&[]).contains('\''), "it stands between single quotes");
    }

    #[test]
    fn dollars_and_percents_reach_the_shell_as_they_are() {
        let unit = from_disk(&["--port".into(), "rackless.agent".into()]);
        assert!(unit.contains("$$(cat \"$$serial\" 2>/dev/null)"), "{unit}");
        assert!(unit.contains("disk=\"$${serial%%/serial}\""), "{unit}");
        assert!(unit.contains("exec ./rackless-agent --port rackless.agent'"), "{unit}");
        assert_eq!(unit.lines().filter(|line| line.starts_with("ExecStart=")).count(), 1);
    }
}
