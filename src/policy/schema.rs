//! Which attributes a message may hold, at every depth.

use super::wire::{Flaw, attributes};

/// Deeper than any message of the catalog.
const DEEPEST: u32 = 12;

/// The attributes at one place.
#[derive(Debug)]
pub struct Schema {
    /// Ranges of attributes without attributes inside, or with bytes that the kernel takes as they are.
    pub leaves: &'static [(u16, u16)],
    /// Attributes with something inside.
    pub within: &'static [(u16, Within)],
    /// Attributes that are known, and never granted: why.
    pub refused: &'static [(u16, &'static str)],
}

/// What is inside an attribute.
#[derive(Debug)]
pub enum Within {
    /// Attributes.
    Attrs(&'static Schema),
    /// A list: attributes of any number, in each of which are these.
    Each(&'static Schema),
    /// Something else, with a check of its own.
    Special(fn(&[u8]) -> Result<(), Flaw>),
}

/// No attributes.
pub static NONE: Schema = Schema::leaves(&[]);
pub const NAMESPACE: &str = "it names a network namespace by a number of the daemon's";
pub const DESCRIPTOR: &str = "it names an open file of the daemon's";
pub const PROCESS: &str = "it names a process as the daemon sees it";
pub const USERS: &str = "it names users as the daemon sees them";
pub const LABEL: &str = "it names a security label, which is judged by the daemon's own";
pub const DEEP: &str = "what is inside depends on a driver";

impl Schema {
    /// Attributes without others inside.
    pub const fn leaves(leaves: &'static [(u16, u16)]) -> Schema {
        Schema { leaves, within: &[], refused: &[] }
    }

    /// With others inside, and none that is refused.
    pub const fn with(leaves: &'static [(u16, u16)], within: &'static [(u16, Within)]) -> Schema {
        Schema { leaves, within, refused: &[] }
    }

    /// Checks all of these bytes.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Flaw> {
        self.check_at(bytes, 0)
    }

    fn check_at(&self, bytes: &[u8], depth: u32) -> Result<(), Flaw> {
        if depth > DEEPEST {
            return Err(Flaw("its attributes are nested too deep".into()));
        }
        for attr in attributes(bytes)? {
            let kind = attr.kind;
            if let Some((_, why)) = self.refused.iter().find(|(refused, _)| *refused == kind) {
                return Err(Flaw(format!("its attribute {kind} is never granted: {why}")));
            }
            let inside = |flaw: Flaw| Flaw(format!("in its attribute {kind}: {flaw}"));
            match self.within.iter().find(|(within, _)| *within == kind).map(|(_, within)| within) {
                Some(Within::Attrs(schema)) => schema.check_at(attr.payload, depth + 1).map_err(inside)?,
                Some(Within::Each(schema)) => {
                    for element in attributes(attr.payload).map_err(inside)? {
                        schema.check_at(element.payload, depth + 2).map_err(inside)?;
                    }
                }
                Some(Within::Special(check)) => check(attr.payload).map_err(inside)?,
                None if self.leaves.iter().any(|(first, last)| (*first..=*last).contains(&kind)) => {}
                None => return Err(Flaw(format!("its attribute {kind} is not known here"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::wire::attribute;

    static INNER: Schema = Schema { leaves: &[(1, 2)], within: &[], refused: &[(3, DESCRIPTOR)] };
    static OUTER: Schema =
        Schema::with(&[(1, 1)], &[(4, Within::Attrs(&INNER)), (5, Within::Each(&INNER)), (6, Within::Attrs(&LOOP))]);
    static LOOP: Schema = Schema::with(&[], &[(1, Within::Attrs(&LOOP))]);

    #[test]
    fn nothing_hides_at_any_depth() {
        let check = |bytes: Vec<u8>| OUTER.check(&bytes).map_err(|flaw| flaw.0);
        assert_eq!(check(attribute(1, b"x")), Ok(()));
        assert_eq!(check(attribute(4, &attribute(2, b"x"))), Ok(()));
        assert_eq!(check(attribute(5, &attribute(77, &attribute(1, b"x")))), Ok(()));
        assert_eq!(check(attribute(2, b"x")), Err("its attribute 2 is not known here".into()));
        let deep = check(attribute(5, &attribute(0, &attribute(3, b"xxxx"))));
        assert_eq!(deep, Err(format!("in its attribute 5: its attribute 3 is never granted: {DESCRIPTOR}")));
        // The flags of the type are not part of it.
        assert!(check(attribute(0x8000 | 4, &attribute(0x4000 | 3, b"xxxx"))).unwrap_err().contains("never granted"));
        assert!(check(attribute(4, b"x")).unwrap_err().starts_with("in its attribute 4: 1 bytes"));
        let mut nested = Vec::new();
        for _ in 0..1000 {
            nested = attribute(1, &nested);
        }
        assert!(check(attribute(6, &nested)).unwrap_err().contains("too deep"));
    }
}
