//! A unified diff of a file that is changed in one place, which is all that an installation does to one.

use std::{fmt::Write, path::Path};

/// Lines shown before and behind the change.
const CONTEXT: usize = 3;

/// Empty when nothing differs. None stands for no file.
pub(super) fn unified(path: &Path, before: Option<&str>, after: Option<&str>) -> String {
    let lines = |text: Option<&str>| -> Vec<String> {
        text.unwrap_or_default().split_inclusive('\n').map(ToOwned::to_owned).collect()
    };
    let (old, new) = (lines(before), lines(after));
    let same_start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let shorter = old.len().min(new.len()) - same_start;
    let same_end =
        old.iter().rev().zip(new.iter().rev()).take(shorter).take_while(|(old, new)| old == new).count();
    if same_start == old.len() && same_start == new.len() {
        return String::new();
    }
    let name = |text: Option<&str>| {
        if text.is_some() { path.display().to_string() } else { "/dev/null".to_owned() }
    };
    let first = same_start.saturating_sub(CONTEXT);
    let tail = same_end.min(CONTEXT);
    let (old_end, new_end) = (old.len() - same_end, new.len() - same_end);
    let mut text = format!("--- {}\n+++ {}\n", name(before), name(after));
    let range = |end: usize| {
        let count = end + tail - first;
        // A range without lines names the line before it.
        format!("{},{count}", if count == 0 { first } else { first + 1 })
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "@@ -{} +{} @@", range(old_end), range(new_end));
    let mut show = |mark: char, lines: Option<&[String]>| {
        for line in lines.unwrap_or_default() {
            text.push(mark);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    show(' ', old.get(first..same_start));
    show('-', old.get(same_start..old_end));
    show('+', new.get(same_start..new_end));
    show(' ', old.get(old_end..old_end + tail));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(before: Option<&str>, after: Option<&str>) -> String {
        unified(Path::new("/f"), before, after)
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let shown = of(Some("1\n2\n3\n4\n5\n6\n7\n8\n"), Some("1\n2\n3\n4\nx\n5\n6\n7\n8\n"));
        assert_eq!(shown, "--- /f\n+++ /f\n@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+x\n 5\n 6\n 7\n");
    }

    #[test]
    fn a_new_file_and_a_removed_one_are_whole() {
        assert_eq!(of(None, Some("a\n")), "--- /dev/null\n+++ /f\n@@ -0,0 +1,1 @@\n+a\n");
        assert_eq!(of(Some("a\n"), None), "--- /f\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n");
    }

    #[test]
    fn a_missing_last_newline_is_told() {
        let shown = of(Some("a"), Some("a\nb\n"));
        assert_eq!(shown, "--- /f\n+++ /f\n@@ -1,1 +1,2 @@\n-a\n\\ No newline at end of file\n+a\n+b\n");
    }

    #[test]
    fn nothing_differs_in_the_same() {
        assert_eq!(of(Some("a\n"), Some("a\n")), "");
    }
}
