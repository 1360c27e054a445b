//! The nearest known name to one that is not.

/// The name among `known` that differs least, if it is near enough to have been meant.
pub fn nearest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let wrong = wrong.to_ascii_lowercase();
    let distances = known.into_iter().map(|name| (distance(&wrong, &name.to_ascii_lowercase()), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= wrong.len().max(3) / 3 + 1).then_some(name)
}

/// An error's end: what was probably meant.
pub fn meant<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    nearest(wrong, known).map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

/// Insertions, removals and replacements between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    // Of the words' beginnings: `first` between that of `one` and nothing, `row` between it and each longer one of `other`.
    let mut row: Vec<(char, usize)> = other.chars().zip(1..).collect();
    let mut first = 0;
    for a in one.chars() {
        let mut corner = first;
        first += 1;
        let mut left = first;
        for (b, above) in &mut row {
            left = (corner + usize::from(a != *b)).min(*above + 1).min(left + 1);
            corner = std::mem::replace(above, left);
        }
    }
    row.last().map_or(first, |(_, whole)| *whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found_and_nothing_is_made_up() {
        let known = ["getlink", "getaddr", "newlink", "queue/config"];
        assert_eq!(nearest("getlnk", known), Some("getlink"));
        assert_eq!(nearest("GETLINKS", known), Some("getlink"));
        assert_eq!(nearest("queue/confg", known), Some("queue/config"));
        assert_eq!(nearest("frobnicate", known), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(meant("getadr", known), "; did you mean \"getaddr\"?");
    }
}
