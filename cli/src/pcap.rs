//! `rackless pcap`: the latest frames of a running lab's switch.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use driver::control::{Answer, Connection, Request, connect};
use switch::VlanId;

use crate::outcome::BadInput;
use crate::runs::LabTarget;

/// What `rackless pcap` was asked.
#[derive(Debug, Args)]
#[command(after_help = "For example: rackless pcap | wireshark -k -i -")]
pub(crate) struct Command {
    #[command(flatten)]
    lab: LabTarget,
    /// Frames of this port only, as `rackless switch` names it: server-1/eth1; may be given several times
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<String>,
    /// Frames of this VLAN only, tagged or not on the wire
    #[arg(long, value_parser = vlan)]
    vlan: Option<VlanId>,
    /// The file to write; stdout when it is left out, or `-`
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn vlan(text: &str) -> Result<VlanId, String> {
    text.parse().ok().and_then(|id| VlanId::new(id).ok()).ok_or_else(|| "expected 1 to 4094".to_owned())
}

/// Writes the frames, and says on stderr what they are and what is missing.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let file = command.output.filter(|path| path.as_os_str() != "-");
    if file.is_none() && io::stdout().is_terminal() {
        return Err(BadInput::new(anyhow!(
            "pcapng is nothing for a terminal: name a file with --output, or pipe it, `rackless pcap | tshark -r -`"
        ))
        .into());
    }
    let run = command.lab.find()?;
    let request = Request::Frames { ports: command.ports, vlan: command.vlan };
    let Connection { answer, mut reader, .. } = connect(&run.path, &request).with_context(|| {
        format!("{}: the lab's control socket; is the lab not made yet, or over?", run.run)
    })?;
    let (frames, missing, unseen, bytes) = match answer {
        Answer::Frames { frames, missing, unseen, bytes } => (frames, missing, unseen, bytes),
        Answer::Error { message } => bail!("{}: {message}", run.run),
        Answer::Ok | Answer::Machines { .. } | Answer::Switch { .. } => {
            bail!("{}: not an answer to what was asked", run.run)
        }
    };
    let mut pcapng = Vec::new();
    reader.by_ref().take(bytes).read_to_end(&mut pcapng)?;
    let came = pcapng.len() as u64;
    ensure!(came == bytes, "{}: the lab ended after {came} of {bytes} bytes", run.run);
    match file {
        Some(path) => fs_err::write(path, pcapng)?,
        None => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&pcapng)?;
            stdout.flush()?;
        }
    }
    eprintln!("rackless: {}", told(frames, missing, &unseen));
    Ok(())
}

fn told(frames: usize, missing: u64, unseen: &[String]) -> String {
    let mut text = format!("the latest {frames} frames");
    if missing > 0 {
        text += &format!("; the switch let {missing} older ones go, of all ports");
    }
    if !unseen.is_empty() {
        text += &format!("; none of vhost-user ports: {}", unseen.join(", "));
    }
    text
}
