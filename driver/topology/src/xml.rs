//! Writes elements. All text is escaped here and nowhere else.

use std::fmt::Write as _;

/// An SVG document that grows.
#[derive(Debug, Default)]
pub(crate) struct Xml {
    text: String,
    open: Vec<&'static str>,
}

impl Xml {
    /// Opens an element; [`Xml::close`] closes it.
    pub(crate) fn open(&mut self, name: &'static str, attributes: &[(&str, &dyn std::fmt::Display)]) {
        self.start(name, attributes);
        self.text.push_str(">\n");
        self.open.push(name);
    }

    pub(crate) fn close(&mut self) {
        if let Some(name) = self.open.pop() {
            self.indent();
            let _ = writeln!(self.text, "</{name}>");
        }
    }

    /// An element with nothing in it.
    pub(crate) fn empty(&mut self, name: &'static str, attributes: &[(&str, &dyn std::fmt::Display)]) {
        self.start(name, attributes);
        self.text.push_str("/>\n");
    }

    /// An element with text in it.
    pub(crate) fn text(
        &mut self,
        name: &'static str,
        attributes: &[(&str, &dyn std::fmt::Display)],
        text: &str,
    ) {
        self.start(name, attributes);
        let _ = writeln!(self.text, ">{}</{name}>", escaped(text));
    }

    pub(crate) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.text
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &dyn std::fmt::Display)]) {
        self.indent();
        let _ = write!(self.text, "<{name}");
        for (key, value) in attributes {
            let _ = write!(self.text, " {key}=\"{}\"", escaped(&value.to_string()));
        }
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.open.len()));
    }
}

/// Text as XML 1.0 takes it in elements and attributes; characters that it can't hold (2.2) are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_text_or_attribute() {
        let mut xml = Xml::default();
        xml.open("g", &[("id", &"\"><script>")]);
        xml.text("text", &[("x", &1)], "</text> & 'more' \u{7}");
        xml.empty("rect", &[]);
        assert_eq!(
            xml.finish(),
            "<g id=\"&quot;&gt;&lt;script&gt;\">\n  \
             <text x=\"1\">&lt;/text&gt; &amp; &#39;more&#39; \u{fffd}</text>\n  <rect/>\n</g>\n"
        );
    }
}
