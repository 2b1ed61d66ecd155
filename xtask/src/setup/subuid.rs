//! Subordinate ids: `/etc/subuid` and `/etc/subgid` (subuid(5)).

/// A root file system has ids up to 65534.
const LEAST: u64 = 65536;
/// Where shadow's own default starts.
const FIRST: u64 = 100_000;

/// `name:start:count` for each line that is sound.
fn ranges(text: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
    })
}

/// Whether `user` has a range that is big enough. Looked up by name, as mmdebstrap does; it takes the first line
/// of a user.
pub(crate) fn has_range(text: &str, user: &str) -> bool {
    ranges(text).find(|(name, ..)| *name == user).is_some_and(|(_, _, count)| count >= LEAST)
}

/// The first and last id of a range that overlaps none of either file.
pub(crate) fn free_range(subuid: &str, subgid: &str) -> (u64, u64) {
    let ends = ranges(subuid).chain(ranges(subgid)).map(|(_, start, count)| start.saturating_add(count));
    let start = ends.fold(FIRST, u64::max);
    (start, start + LEAST - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_range_is_none() {
        assert!(has_range("root:1:65536\nada:100000:65536\n", "ada"));
        assert!(!has_range("ada:100000:1000\n", "ada"));
        assert!(!has_range("adalbert:100000:65536\nada:x:y\n\n", "ada"));
    }

    #[test]
    fn the_free_range_is_behind_all_others() {
        assert_eq!(free_range("", ""), (100_000, 165_535));
        assert_eq!(free_range("a:100000:65536\n", "a:300000:65536\n"), (365_536, 431_071));
    }
}
