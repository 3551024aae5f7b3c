//! Pure checkers of the repository's conventions: each takes texts and returns what is wrong with them.

pub mod circles;
pub mod crates;
pub mod docs;
pub mod metrics;
pub mod sources;
pub mod sql;

#[cfg(test)]
mod tests;

/// Words of letters, digits and `_`, with the number of their line, from 1.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..)
        .zip(text.lines())
        .flat_map(|(number, line)| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').map(move |word| (number, word))
        })
        .filter(|(_, word)| !word.is_empty())
}

/// Text in lower case without `phrases`, which are allowed although they contain forbidden words.
pub fn without(text: &str, phrases: &[&str]) -> String {
    phrases.iter().fold(text.to_lowercase(), |text, phrase| text.replace(phrase, ""))
}
