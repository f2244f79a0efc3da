//! What a registry or a library says becomes a line that can be shown.

use std::error::Error;

/// A cause is not longer, in characters.
const MAX_CAUSE: usize = 1000;

/// Of a registry's own words no more is quoted, in characters.
const MAX_QUOTE: usize = 200;

/// The chain of causes.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some libraries repeat their source.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    clean(&text)
}

/// Without control characters, which could drive a terminal, and not too long.
pub(crate) fn clean(text: &str) -> String {
    shortened(text, MAX_CAUSE)
}

/// A registry's own words.
pub(crate) fn quote(text: &str) -> String {
    shortened(text, MAX_QUOTE)
}

fn shortened(text: &str, most: usize) -> String {
    let mut characters = text.chars().filter(|one| !one.is_control() && !is_invisible(*one));
    let mut short: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

/// Those that turn the direction of writing, or have no width: text may read as another.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_cannot_drive_a_terminal() {
        assert_eq!(quote("\x1b[2Jall \u{202e}is\r\nwell\u{9b}5m"), "[2Jall iswell5m");
    }

    #[test]
    fn a_registrys_words_are_few() {
        let quoted = quote(&"é".repeat(1_000_000));
        assert_eq!((quoted.chars().count(), quoted.ends_with("é…")), (201, true));
    }
}
