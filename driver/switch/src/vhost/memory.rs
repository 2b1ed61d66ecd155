//! The guest's memory, as the front end shares it.

use std::fs::File;
use std::os::fd::OwnedFd;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::message::Region;

/// The guest's memory, mapped here.
pub(super) struct Memory {
    pub(super) map: GuestMemoryMmap,
    regions: Vec<Region>,
}

impl Memory {
    /// Maps all regions.
    ///
    /// # Errors
    /// What the system says, or that a region makes no sense (one that is longer than its file would kill this process
    /// when it is touched, and is refused).
    pub(super) fn map(regions: Vec<Region>, files: Vec<OwnedFd>) -> Result<Memory, String> {
        let mut parts: Vec<_> = regions.iter().copied().zip(files).collect();
        parts.sort_by_key(|(region, _)| region.guest);
        let mapped = parts.into_iter().map(|(region, file)| {
            let length = usize::try_from(region.length).map_err(|e| e.to_string())?;
            let file = FileOffset::new(File::from(file), region.offset);
            let mapping = MmapRegion::from_file(file, length).map_err(|e| e.to_string())?;
            GuestRegionMmap::new(mapping, GuestAddress(region.guest))
                .ok_or_else(|| format!("a region of {length} bytes at {:#x}", region.guest))
        });
        let mapped = mapped.collect::<Result<Vec<_>, String>>()?;
        let map = GuestMemoryMmap::from_regions(mapped).map_err(|e| e.to_string())?;
        Ok(Memory { map, regions })
    }

    /// Where the guest has what the front end has at `address`.
    pub(super) fn guest_address(&self, address: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|region| {
            let into = address.checked_sub(region.front_end).filter(|into| *into < region.length)?;
            region.guest.checked_add(into).map(GuestAddress)
        })
    }
}
