//! Which functions a listed name stands for.

/// Whether a path (`a::b`, all if empty) is part of a function's name, word by word: `take` is not part of `x::take_back`, and `{closure` stands
/// for all closures.
pub fn names(function: &str, path: &str) -> bool {
    let words =
        |text| -> Vec<&str> { str::split(text, [':', '<', '>', ' ', '&']).filter(|word| !word.is_empty()).collect() };
    let (function, path) = (words(function), words(path));
    let is_same = |(word, wanted): (&&str, &&str)| word == wanted || *wanted == "{closure" && word.starts_with(wanted);
    path.is_empty() || function.windows(path.len()).any(|some| some.iter().zip(&path).all(is_same))
}

#[test]
fn a_name_stands_for_whole_words() {
    let function = "<nlmmap::serve::capture::Channel as core::ops::drop::Drop>::drop";
    for path in ["", "Channel", "drop", "::drop", "capture::Channel", "Channel::"] {
        assert!(names(function, path), "{path}");
    }
    for path in ["Chan", "capture::Drop", "rop", "serve::Channel"] {
        assert!(!names(function, path), "{path}");
    }
    assert!(names("preload::place::sweep::{closure#0}", "{closure") && !names("preload::place::sweep", "{closure"));
}
