//! The guest's half, in POSIX sh: pure text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::frame::{Marker, hex};

/// The programs that the guest must have.
pub const TOOLS: [&str; 14] = [
    "base64",
    "cat",
    "dd",
    "env",
    "head",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
    "setsid",
    "sha256sum",
    "sleep",
    "tr",
    "wc",
];

/// A line that ends a server which still listens, and a loop that still waits for pieces. To a shell it is the name of a
/// program that is not there.
pub(crate) const LEAVE: &str = "./rackless-leave\n";

/// Characters of the server's text in one line: a terminal that could not be made raw takes 4095.
const PIECE: usize = 1000;

/// The server. fd 3 is the line, which it makes raw once more: on a starved host the key that ends what an earlier attempt
/// left may have ended the `stty` before it, and an echoed request reads as a damaged answer.
///
/// `w TAG BASE64` writes an answer. `g JOB` tells a command's end, `f JOB LIMIT` runs one. An answer is what the code of a
/// request printed, a newline, and its status. Words are cut off from the left with `#` only: bash takes seconds for
/// `##` on a long line.
const SERVER: &str = r#"LC_ALL=C; export LC_ALL
unset HISTFILE
exec 3>&1
stty raw -echo 2>/dev/null
w() {
k=$(printf '%s %s' "$1" "$2" | sha256sum)
printf '\n%s %s %s %s\n' "$M" "$1" "$2" "${k%"${k#????????????????}"}" >&3
}
b() { base64 | tr -d '\n'; }
n() { set -- $(wc -c <"$1"); echo "$1"; }
h() { set -- $(head -c "$2" "$1" | sha256sum); echo "$1"; }
g() {
[ -e "$D/$1/s" ] || return 3
cat "$D/$1/n"
read -r _ _ _ x y _ <"$D/$1/n"
[ $((x + y)) -gt 4096 ] || { head -c "$x" "$D/$1/o"; head -c "$y" "$D/$1/e"; }
}
f() {
d=$D/$1
mkdir "$d/r" 2>/dev/null || return 0
(
exec >/dev/null 2>&1 </dev/null
read -r u _ </proc/uptime || u=0
setsid sh "$d/c" <"$d/i" >"$d/o" 2>"$d/e" 3>&- &
p=$!
echo $p >"$d/p"
setsid sh -c 'sleep "$1" || sleep 1; : >"$2/t"; kill -9 -"$3" || kill -9 "$3"' x "$2" "$d" $p 3>&- &
q=$!
wait $p
s=$?
kill -9 -$q || kill -9 $q
[ ! -e "$d/t" ] || s=t
read -r v _ </proc/uptime || v=0
echo "$s $u $v $(n "$d/o") $(n "$d/e")" >"$d/m"
read -r _ _ _ x y <"$d/m"
echo "$s $u $v $x $y $(h "$d/o" "$x") $(h "$d/e" "$y")" >"$d/n"
: >"$d/s"
w "e$1" "$(g "$1" | b)"
) &
}
D=$(mktemp -d /run/rackless.XXXXXX 2>/dev/null || mktemp -d /tmp/rackless.XXXXXX) || D=
i=
for t in @TOOLS@; do command -v $t >/dev/null 2>&1 || i="$i $t"; done
read -r t </proc/sys/kernel/random/boot_id || t=unknown
w r0 "$(printf '%s\n' "$A" "$D" "$t" "$(id -u)" "$i" | b)"
while IFS= read -r l; do
case $l in @LEAVE@*) break ;; *"$M "*) l=${l#*"$M "} ;; *) continue ;; esac
s=${l%% *}; l=${l#* }
k=${l%% *}; l=${l#* }
c=${l%% *}; X=${l#* }
j=$(printf '%s %s %s' "$s" "$c" "$X" | sha256sum)
[ "$k" = "${j%"${j#????????????????}"}" ] || { w n IQ==; continue; }
w "r$s" "$( { eval "$(printf %s "$c" | base64 -d)"; printf '\n%s' $?; } 2>&1 </dev/null | b)"
done
rm -rf "$D"
"#;

/// What is typed at a shell to start the server, and the lines that it then asks for.
pub(crate) struct Bootstrap {
    /// One line for the shell.
    pub(crate) line: String,
    /// What it prints when it reads: the pieces may come.
    pub(crate) feed: String,
    /// What it prints when the pieces came damaged.
    pub(crate) bad: String,
    /// The server, and the end of it.
    pub(crate) pieces: Vec<String>,
}

impl Bootstrap {
    /// The server of one session. `attempt` is in what it prints, its greeting included, so that an earlier attempt's words
    /// don't count.
    pub(crate) fn new(marker: &Marker, attempt: u32) -> Self {
        let server = SERVER.replace("@TOOLS@", &TOOLS.join(" ")).replace("@LEAVE@", LEAVE.trim());
        let server = STANDARD.encode(format!("M={}\nA={attempt}\n{server}", marker.as_str()));
        let digest = hex(&Sha256::digest(server.as_bytes()));
        // Neither the marker nor what is waited for stands in this line, whose echo comes back: it is printed in halves.
        let (head, tail) = ("rackless-", &marker.as_str()[4..]);
        // Double quotes alone, for it stands in single ones.
        let reader = format!(
            "stty raw -echo 2>/dev/null; R=; printf \"\\\\n%s%s\\\\n\" {head} {tail}-{attempt}-feed; \
             while IFS= read -r r; do case $r in +*) R=$R${{r#+}} ;; .*) break ;; esac; done; \
             case $(printf %s \"$R\" | sha256sum) in {digest}*) sh -c \"$(printf %s \"$R\" | base64 -d)\" ;; \
             *) printf \"\\\\n%s%s\\\\n\" {head} {tail}-{attempt}-bad ;; esac; stty sane 2>/dev/null"
        );
        // Run only if it came whole: a loop whose `break` was damaged has no end.
        let whole = hex(&Sha256::digest(reader.as_bytes()));
        let line =
            format!(" X='{reader}'; case $(printf %s \"$X\" | sha256sum) in {whole}*) eval \"$X\" ;; esac\n");
        let pieces = server.as_bytes().chunks(PIECE);
        let pieces = pieces.map(|piece| format!("+{}\n", String::from_utf8_lossy(piece)));
        Self {
            line,
            feed: format!("{head}{tail}-{attempt}-feed"),
            bad: format!("{head}{tail}-{attempt}-bad"),
            pieces: pieces.chain([".\n".to_owned()]).collect(),
        }
    }
}

/// A word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_typed_line_shows_no_marker_when_it_is_echoed() {
        let marker = Marker::random();
        let bootstrap = Bootstrap::new(&marker, 3);
        for word in [marker.as_str(), &bootstrap.feed, &bootstrap.bad] {
            assert!(!bootstrap.line.contains(word), "{word}");
        }
        assert!(bootstrap.line.len() < 900, "{} characters", bootstrap.line.len());
        assert_eq!(bootstrap.line.matches('\'').count(), 2, "{}", bootstrap.line);
        assert!(bootstrap.pieces.iter().all(|piece| piece.len() < 4000));
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(quote("/a/b-c"), "/a/b-c");
        assert_eq!(quote("it's $x"), r"'it'\''s $x'");
        assert_eq!(quote(""), "''");
    }
}
