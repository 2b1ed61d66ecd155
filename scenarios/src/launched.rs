//! A lab that was launched, with what goes with it in this process: DHCP, its copies, its end.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use driver::Lab;
use harness::{SubjectId, Testbed};

use crate::dhcp::Dhcp;
use crate::fixture;
use crate::plan::Plan;

/// A running lab, whose verbs it has: it is a [`Lab`] wherever one is wanted. Clones are the same lab.
#[derive(Clone)]
pub struct Launched {
    lab: Lab,
    dhcp: BTreeMap<String, Dhcp>,
    plan: Arc<Plan>,
    /// How many copies there are of it.
    forked: Arc<AtomicU32>,
    subject: SubjectId,
}

impl Launched {
    pub(crate) fn new(lab: Lab, dhcp: BTreeMap<String, Dhcp>, plan: Arc<Plan>, subject: SubjectId) -> Self {
        Self { lab, dhcp, plan, forked: Arc::default(), subject }
    }

    /// The lab below.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The DHCP server of a network: its leases, and what it is to do wrong.
    ///
    /// # Errors
    /// When the profile has no such network, or one without `dhcp`.
    pub fn dhcp(&self, network: &str) -> anyhow::Result<&Dhcp> {
        let served = || self.dhcp.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.dhcp.get(network).with_context(|| {
            let profile = self.lab.name();
            format!("the profile {profile} has no network {network} with DHCP; with it are: {}", served())
        })
    }

    /// Copies of the lab as it is at this moment, which go on beside it, each with a switch of its own: for different
    /// faults from one state. `copies` of [`crate::Rack`] or [`crate::ClusterBuilder`] must have taken the room for them.
    /// The machines of a copy are `copy-1/server-1` in events, and in `copy-1/` among the artefacts.
    ///
    /// # Errors
    /// When there is no room for so many, or as [`Lab::checkpoint`] and [`Lab::resume`].
    pub async fn fork(&self, t: &Testbed, copies: u32) -> anyhow::Result<Vec<Launched>> {
        let before = self.forked.fetch_add(copies, Ordering::Relaxed);
        ensure!(
            before + copies <= self.plan.copies,
            "room was taken for {} copies of the lab, and these would be {}: say .copies({1}) where it is launched",
            self.plan.copies,
            before + copies
        );
        let names: Vec<String> =
            (before + 1..=before + copies).map(|number| format!("copy-{number}")).collect();
        fixture::fork(t, &self.plan, &self.lab, &names).await
    }

    /// Ends the lab before the test does, in the order in which the harness would. What the test holds of it is of no use
    /// afterwards; its share of the host stays the test's.
    ///
    /// # Errors
    /// [`driver::Error::Lingering`] names what outlived it.
    pub async fn end(self, t: &Testbed) -> anyhow::Result<()> {
        // The hosts on its switch are the subject's.
        let subject = t.detach(self.subject).context("the lab has ended already")?;
        subject.teardown().await
    }
}

impl Deref for Launched {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}
