//! The operator `LIKE` of SQL.

/// Whether `text` matches `pattern`: `%` matches any text, `_` any character, and a character after `\` only
/// itself.
#[must_use]
pub fn like(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => text.is_empty(),
        Some('%') => {
            (0..=text.len()).filter(|n| text.is_char_boundary(*n)).any(|n| like(pattern.as_str(), &text[n..]))
        }
        Some(sign) => {
            let exact = if sign == '\\' { pattern.next() } else { Some(sign).filter(|c| *c != '_') };
            let mut rest = text.chars();
            let first = rest.next();
            first.is_some() && (exact.is_none() || exact == first) && like(pattern.as_str(), rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn is_as_in_postgres() {
        for (pattern, text, matches) in [
            ("smtp%", "smtp 451", true),
            ("smtp%", "no smtp", false),
            ("%451", "smtp 451", true),
            ("%4%1", "smtp 451", true),
            ("_mtp", "smtp", true),
            ("_mtp", "mtp", false),
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("100\\%", "100%", true),
            ("100\\%", "1000", false),
            ("a\\_b", "a_b", true),
            ("a\\_b", "axb", false),
            ("\\\\", "\\", true),
            ("ä%", "äöü", true),
            ("SMTP%", "smtp", false),
        ] {
            assert_eq!(like(pattern, text), matches, "{pattern} {text}");
        }
    }
}
