//! Where something is in the file: keys by lines and lines by keys, for messages.

/// The line, from 1, of a place in the text.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    let lines = 1 + text.as_bytes()[..end].iter().filter(|&&byte| byte == b'\n').count();
    lines.min(text.lines().count().max(1))
}

/// The key on a line, with the table that it is in: `serial.speed`. The table alone where there is no key.
pub(super) fn key_at(text: &str, line: usize) -> String {
    let mut found = String::new();
    for (number, place) in places(text) {
        if number > line {
            break;
        }
        found = place;
    }
    found
}

/// The line of a key such as `serial.speed`, or of its table, or the first.
pub(super) fn line_of_key(text: &str, key: &str) -> usize {
    let find = |key: &str| places(text).find(|(_, place)| place == key).map(|(line, _)| line);
    let table = || key.rsplit_once('.').and_then(|(table, _)| find(table));
    find(key).or_else(table).unwrap_or(1)
}

/// Every table's and every key's line. The tables of an array have a number: `boot.dialogue[0]`.
fn places(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut table = String::new();
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]")) {
            let name = name.0.trim();
            let count = counts.entry(name.to_owned()).or_default();
            table = format!("{name}[{count}]");
            *count += 1;
            return Some((index + 1, table.clone()));
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            // A list of the value before goes on in lines that begin like this, with quotes.
            if !name.0.contains(['"', ',']) {
                name.0.trim().clone_into(&mut table);
                return Some((index + 1, table.clone()));
            }
        }
        let key = line.split_once('=')?.0.trim().trim_matches('"');
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let place = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        is_key.then_some((index + 1, place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"orin\"\n\n[serial]\nspeed = 9600\n\n[[boot.dialogue]]\nexpect = \"a = b\"\n\n\
                        [[boot.dialogue]]\nsend = \"x\"\n";

    #[test]
    fn keys_and_lines_find_each_other() {
        for (key, line) in [
            ("name", 1),
            ("serial", 3),
            ("serial.speed", 4),
            ("boot.dialogue[0].expect", 7),
            ("boot.dialogue[1].send", 10),
        ] {
            assert_eq!(line_of_key(TEXT, key), line, "{key}");
            assert_eq!(key_at(TEXT, line), key);
        }
        assert_eq!(line_of_key(TEXT, "serial.device"), 3, "a key that is missing is a matter of its table");
        assert_eq!(line_of_key(TEXT, "power.on"), 1);
        assert_eq!(line_of(TEXT, TEXT.find("9600").expect("there")), 4);
        assert_eq!(line_of("", 10), 1);
    }
}
