//! The flags of k3s that follow from the network.

use crate::error::Error;
use crate::model::{CLUSTER, Profile, Role};

/// The flags for `k3s server` or `k3s agent` on a machine, each as one word `--name=value`.
///
/// They bind k3s to the cluster network. How a machine joins (`--server`, `--token`, `--cluster-init`) is the
/// cluster's affair; [`Profile::api_endpoint`] is where.
///
/// # Errors
/// [`Error::UnknownMachine`].
pub fn k3s_flags(profile: &Profile, machine: &str) -> Result<Vec<String>, Error> {
    let attachment = profile.attachment(machine, CLUSTER)?;
    let mut flags = vec![
        format!("--node-ip={}", attachment.address),
        format!("--flannel-iface={}", attachment.interface),
    ];
    if profile.machine(machine)?.role == Role::Server {
        let kubernetes = profile.kubernetes();
        flags.extend([
            format!("--advertise-address={}", attachment.address),
            format!("--tls-san={}", profile.api_endpoint().ip()),
            format!("--cluster-cidr={}", kubernetes.pod_cidr),
            format!("--service-cidr={}", kubernetes.service_cidr),
        ]);
        // An agent takes the port from the URL that it joins by.
        if kubernetes.api_port != 6443 {
            flags.push(format!("--https-listen-port={}", kubernetes.api_port));
        }
    }
    Ok(flags)
}
