//! VLAN ids, sets of them, and what a port does with them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// An 802.1Q VLAN id, 1 to 4094. 0 means "no VLAN, only a priority" and 4095 is reserved, so neither can be one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct VlanId(u16);

impl VlanId {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::VlanOutOfRange`] for 0 and for what is above 4094.
    pub fn new(vid: u16) -> Result<VlanId, Error> {
        if (1..=4094).contains(&vid) {
            Ok(VlanId(vid))
        } else {
            Err(Error::VlanOutOfRange { vid: vid.to_string() })
        }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> u16 {
        vlan.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = Error;

    fn try_from(vid: u16) -> Result<VlanId, Error> {
        VlanId::new(vid)
    }
}

const WORDS: usize = 64;

/// A set of VLAN ids. Its text form is a list of numbers and ranges: `1,100-199,300`; the empty set is the empty text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VlanSet(Box<[u64; WORDS]>);

impl Default for VlanSet {
    fn default() -> VlanSet {
        VlanSet(Box::new([0; WORDS]))
    }
}

impl VlanSet {
    /// The empty set.
    pub fn new() -> VlanSet {
        VlanSet::default()
    }

    /// All of 1 to 4094.
    pub fn all() -> VlanSet {
        (1..=4094).map(VlanId).collect()
    }

    /// Adds an id.
    pub fn insert(&mut self, vlan: VlanId) {
        self.0[usize::from(vlan.0) / 64] |= 1 << (vlan.0 % 64);
    }

    /// Whether the id is in the set.
    pub fn contains(&self, vlan: VlanId) -> bool {
        self.0[usize::from(vlan.0) / 64] & (1 << (vlan.0 % 64)) != 0
    }

    /// Whether the set has no id.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The ids in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        (1..=4094).map(VlanId).filter(|vlan| self.contains(*vlan))
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<T: IntoIterator<Item = VlanId>>(ids: T) -> VlanSet {
        let mut set = VlanSet::new();
        set.extend(ids);
        set
    }
}

impl Extend<VlanId> for VlanSet {
    fn extend<T: IntoIterator<Item = VlanId>>(&mut self, ids: T) {
        for vlan in ids {
            self.insert(vlan);
        }
    }
}

impl From<VlanId> for VlanSet {
    fn from(vlan: VlanId) -> VlanSet {
        VlanSet::from_iter([vlan])
    }
}

impl fmt::Display for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().map(VlanId::get).peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl From<VlanSet> for String {
    fn from(set: VlanSet) -> String {
        set.to_string()
    }
}

impl TryFrom<String> for VlanSet {
    type Error = Error;

    fn try_from(text: String) -> Result<VlanSet, Error> {
        text.parse()
    }
}

impl FromStr for VlanSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<VlanSet, Error> {
        let id = |text: &str| -> Result<VlanId, Error> {
            let out_of_range = |_| Error::VlanOutOfRange { vid: text.to_owned() };
            VlanId::new(text.trim().parse().map_err(out_of_range)?)
        };
        let mut set = VlanSet::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (id(first)?, id(last)?);
            if first > last {
                return Err(Error::VlanOutOfRange { vid: part.to_owned() });
            }
            set.extend((first.0..=last.0).map(VlanId));
        }
        Ok(set)
    }
}

/// Which VLANs a port belongs to, and whether their frames are tagged on its wire (IEEE 802.1Q, 6.9 and 8.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum PortMode {
    /// One VLAN, untagged. A frame that comes in with a tag is dropped ([`crate::DropReason::TaggedOnAccess`]), even
    /// one with this VLAN's id; one with only a priority (VLAN id 0) is taken, and its priority is kept.
    Access {
        /// The VLAN of every frame of this port.
        vlan: VlanId,
    },
    /// Many VLANs, tagged.
    Trunk {
        /// The VLANs that pass.
        allowed: VlanSet,
        /// The VLAN of frames without a tag, and the only one whose frames leave without one. It belongs to the port
        /// whether or not `allowed` names it. Without it, untagged frames are dropped.
        native: Option<VlanId>,
    },
}

impl PortMode {
    /// Whether frames of the VLAN may enter and leave by the port.
    pub fn carries(&self, vlan: VlanId) -> bool {
        match self {
            PortMode::Access { vlan: access } => *access == vlan,
            PortMode::Trunk { allowed, native } => *native == Some(vlan) || allowed.contains(vlan),
        }
    }

    /// Whether a frame of the VLAN has a tag when it leaves the port.
    pub fn tags(&self, vlan: VlanId) -> bool {
        matches!(self, PortMode::Trunk { native, .. } if *native != Some(vlan))
    }

    /// The VLAN of a frame that comes in without a tag, if it is taken at all.
    pub fn untagged(&self) -> Option<VlanId> {
        match self {
            PortMode::Access { vlan } => Some(*vlan),
            PortMode::Trunk { native, .. } => *native,
        }
    }
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortMode::Access { vlan } => write!(f, "access {vlan}"),
            PortMode::Trunk { allowed, native: None } => write!(f, "trunk {allowed}"),
            PortMode::Trunk { allowed, native: Some(native) } => write!(f, "trunk {allowed} native {native}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_end_at_4094() {
        assert!(VlanId::new(1).is_ok() && VlanId::new(4094).is_ok());
        for wrong in [0, 4095, 4096, u16::MAX] {
            let error = VlanId::new(wrong).unwrap_err().to_string();
            assert!(error.contains("1 to 4094") && error.contains(&wrong.to_string()), "{error}");
        }
    }

    #[test]
    fn sets_reject_nonsense() {
        for wrong in ["0", "4095", "1-4095", "20-10", "x", "1-2-3", "-5"] {
            assert!(wrong.parse::<VlanSet>().is_err(), "{wrong}");
        }
        assert_eq!(VlanSet::all().to_string(), "1-4094");
        assert_eq!("".parse::<VlanSet>().unwrap(), VlanSet::new());
    }

    proptest! {
        #[test]
        fn a_set_survives_its_text(ids in proptest::collection::btree_set(1u16..=4094, 0..40)) {
            let set: VlanSet = ids.iter().map(|id| VlanId(*id)).collect();
            prop_assert_eq!(set.iter().map(VlanId::get).collect::<Vec<_>>(), ids.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(set.to_string().parse::<VlanSet>().unwrap(), set);
        }

        #[test]
        fn any_text_is_a_set_or_an_error(text in ".{0,20}") {
            let _: Result<VlanSet, Error> = text.parse();
        }
    }
}
