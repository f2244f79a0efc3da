//! What install adds to files that know `#` comments, between two lines that say so: who reads the file sees whose it is, and it can be
//! taken out again after others have edited the file.

const BEGIN: &str = "# Added by `securectr install`; `securectr uninstall` takes it out.";
const END: &str = "# End of what `securectr install` added.";

/// How a file ends its lines.
pub(super) fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

pub(super) fn block(lines: &[String], newline: &str) -> String {
    let all = std::iter::once(BEGIN).chain(lines.iter().map(String::as_str)).chain([END]);
    all.flat_map(|line| [line, newline]).collect()
}

/// A text without the blocks in it.
pub(super) fn cut(text: &str) -> String {
    let mut is_ours = false;
    text.split_inclusive('\n')
        .filter(|line| {
            let was_ours = is_ours;
            match line.trim() {
                BEGIN => is_ours = true,
                END => is_ours = false,
                _ => {}
            }
            !(was_ours || is_ours)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_block_stays() {
        for newline in ["\n", "\r\n"] {
            let ours = block(&["a = 1".to_owned()], newline);
            let before = format!("# theirs{newline}");
            let behind = format!("b = 2{newline}no newline at the end");
            assert_eq!(cut(&format!("{before}{ours}{behind}")), format!("{before}{behind}"));
        }
    }
}
