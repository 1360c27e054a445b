//! The public interface of the library is what `tests/api.txt` says: a change of one is a change of the other.
//! `UPDATE_API=1 cargo test --test api` writes it anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quote::ToTokens;
use syn::{Fields, ImplItem, Item, Visibility};

/// Tokens as one would write them, more or less.
fn text(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (from, to) in [
        (" :: ", "::"),
        (" < ", "<"),
        (" >", ">"),
        ("< ", "<"),
        ("& ", "&"),
        (" ,", ","),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" :", ":"),
        (" ;", ";"),
        (" [", "["),
        ("[ ", "["),
        (" ]", "]"),
        (",)", ")"),
    ] {
        text = text.replace(from, to);
    }
    text
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The name that an implementation is about.
fn subject(kind: &syn::Type) -> String {
    match kind {
        syn::Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Attributes that callers meet.
fn notes(attributes: &[syn::Attribute]) -> String {
    let met = ["derive", "non_exhaustive", "must_use"];
    let kept = attributes.iter().filter(|a| met.iter().any(|name| a.path().is_ident(name)));
    kept.map(|a| text(a) + " ").collect()
}

fn fields(fields: &Fields) -> String {
    let each = fields.iter().filter(|f| is_public(&f.vis) || matches!(f.vis, Visibility::Inherited)).map(|f| {
        let name = f.ident.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        name + &text(&f.ty)
    });
    each.collect::<Vec<_>>().join(", ")
}

fn describe(item: &Item, names: &BTreeSet<String>, lines: &mut BTreeSet<String>) {
    match item {
        Item::Struct(s) if names.contains(&s.ident.to_string()) => {
            let public = s
                .fields
                .iter()
                .filter(|f| is_public(&f.vis))
                .map(|f| f.ident.as_ref().map(|name| format!("{name}: ")).unwrap_or_default() + &text(&f.ty));
            let public = public.collect::<Vec<_>>().join(", ");
            lines.insert(format!("{}struct {}{} {{ {public} }}", notes(&s.attrs), s.ident, text(&s.generics)));
        }
        Item::Enum(e) if names.contains(&e.ident.to_string()) => {
            lines.insert(format!("{}enum {}{}", notes(&e.attrs), e.ident, text(&e.generics)));
            for v in &e.variants {
                lines.insert(format!("{}::{}({})", e.ident, v.ident, fields(&v.fields)));
            }
        }
        Item::Type(t) if names.contains(&t.ident.to_string()) => {
            lines.insert(format!("type {}{} = {}", t.ident, text(&t.generics), text(&t.ty)));
        }
        Item::Impl(i)
            if names.contains(&subject(&i.self_ty))
                || i.trait_
                    .as_ref()
                    .is_some_and(|(_, path, _)| names.iter().any(|n| text(path).contains(&format!("<{n}>")))) =>
        {
            let name = subject(&i.self_ty);
            if let Some((_, path, _)) = &i.trait_ {
                let safety = if i.unsafety.is_some() { "unsafe " } else { "" };
                lines.insert(format!("{safety}impl {} for {}", text(path), text(&i.self_ty)));
                return;
            }
            for item in &i.items {
                match item {
                    ImplItem::Fn(f) if is_public(&f.vis) => {
                        lines.insert(format!("{name}: {}{}", notes(&f.attrs), text(&f.sig)))
                    }
                    ImplItem::Const(c) if is_public(&c.vis) => {
                        lines.insert(format!("{name}: const {}: {}", c.ident, text(&c.ty)))
                    }
                    _ => false,
                };
            }
        }
        _ => {}
    }
}

/// Names that `src/lib.rs` exports.
fn exported(tree: &syn::UseTree, names: &mut BTreeSet<String>) {
    match tree {
        syn::UseTree::Path(path) => exported(&path.tree, names),
        syn::UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| exported(tree, names)),
        other => panic!("written another way than this test reads: {}", text(other)),
    }
}

#[test]
fn the_public_interface_is_what_is_written_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let parse = |path: &Path| syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
    let (mut names, mut lines) = (BTreeSet::new(), BTreeSet::new());
    for item in parse(&source.join("src/lib.rs")).items {
        match item {
            Item::Use(item) if is_public(&item.vis) => exported(&item.tree, &mut names),
            Item::Mod(item) if !is_public(&item.vis) => {}
            other => panic!("src/lib.rs has something else in it: {}", text(&other)),
        }
    }
    assert!(names.contains("RingSocket"));
    for entry in fs::read_dir(source.join("src/ring_socket")).unwrap() {
        let path = entry.unwrap().path();
        parse(&path).items.iter().for_each(|item| describe(item, &names, &mut lines));
    }
    let found = lines.into_iter().map(|line| line + "\n").collect::<String>();
    assert!(!found.contains(": unsafe fn") && !found.contains("unsafe fn"), "no unsafe in the public interface");
    let written = source.join("tests/api.txt");
    if std::env::var_os("UPDATE_API").is_some() {
        fs::write(&written, &found).unwrap();
    }
    let expected = fs::read_to_string(&written).unwrap_or_default();
    for line in expected.lines().filter(|line| !found.lines().any(|l| l == *line)) {
        println!("gone: {line}");
    }
    for line in found.lines().filter(|line| !expected.lines().any(|l| l == *line)) {
        println!("new:  {line}");
    }
    assert!(found == expected, "if it is meant: UPDATE_API=1 cargo test --test api, and say so in CHANGELOG.md");
}

/// What threads may do with it is part of the interface, and written in no signature.
#[test]
fn messages_go_to_other_threads() {
    fn moves<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    moves::<nlmmap::RingSocket>();
    is_shared::<nlmmap::Message<'static>>();
    is_shared::<nlmmap::Error>();
    moves::<nlmmap::Builder>();
}

/// The library alone needs neither the command's crates nor the daemon's.
#[test]
fn the_library_alone_needs_little() {
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["tree", "--package", "nlmmap", "--no-default-features", "--edges", "normal", "--prefix", "none"]);
    let output = command.arg("--offline").current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let crates: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let needed =
        ["libc", "linux-raw-sys", "memmap2", "nlmmap", "nlmmap-ring", "syscalls", "thiserror", "thiserror-impl"];
    let of_macros = ["proc-macro2", "quote", "syn", "unicode-ident", "serde_repr"];
    for name in &crates {
        assert!(needed.contains(name) || of_macros.contains(name), "{name} is needed by the library alone");
    }
    assert!(needed.iter().all(|name| crates.contains(name)), "{crates:?}");
}
