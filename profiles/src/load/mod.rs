//! From a text to a [`Profile`], or to all that is wrong with it.
//!
//! Three passes: `draft` reads values of the right type, `check` compares them with one another, `build` makes the
//! profile. Each pass goes on after a problem, so that one run shows them all.

mod build;
mod check;
mod draft;
mod reader;

pub use check::is_name;

use toml::de::DeTable;

use crate::error::{Error, Kind, Problem};
use crate::model::Profile;
use draft::Draft;
use reader::{Report, Section};

pub(crate) fn from_bytes(bytes: &[u8], file: &str) -> Result<Profile, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => from_text(text, file),
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
            let message = format!("byte {} is not UTF-8; expected a text file", error.valid_up_to());
            let problem = Problem { line, key: String::new(), kind: Kind::Syntax { message } };
            Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] })
        }
    }
}

pub(crate) fn from_text(text: &str, file: &str) -> Result<Profile, Error> {
    let mut report = Report::new(text);
    let invalid = |report: Report| Error::Invalid { file: file.to_owned(), problems: report.into_problems() };

    // What the parser makes of the rest after a slip is guesswork: its errors are all that is worth telling.
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = report.line(&error.span().unwrap_or_default());
        report.add_at(line, String::new(), Kind::Syntax { message: error.message().replace('\n', ", ") });
    }
    if !report.is_clean() {
        return Err(invalid(report));
    }

    let draft = Draft::read(&Section::root(document.get_ref()), &mut report);
    check::all(&draft, &mut report);
    let profile = if report.is_clean() { build::profile(draft) } else { None };
    profile.ok_or_else(|| invalid(report))
}
