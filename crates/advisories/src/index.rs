//! Where in the file a package's advisories are: a table that is searched as it lies there.
//!
//! ```text
//! count, then for each package, in the order of the keys: key offset u32, length u32, offset u64, checksum u32
//! ```
//! followed by the keys. A key is the ecosystem, a zero byte, the name.

use std::cmp::Ordering;

use crate::codec::{Damaged, Reader};

const ROW: usize = 20;

/// Where a package's block is, counted from the start of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub length: u32,
    pub checksum: u32,
}

pub fn key(ecosystem: &str, name: &str) -> Vec<u8> {
    [ecosystem.as_bytes(), b"\0", name.as_bytes()].concat()
}

/// `rows` are sorted by key.
pub fn encode<'k>(rows: impl ExactSizeIterator<Item = (&'k [u8], Place)>) -> Vec<u8> {
    let mut table = Vec::with_capacity(4 + rows.len() * ROW);
    table.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    let mut keys = Vec::new();
    for (key, place) in rows {
        table.extend_from_slice(&(keys.len() as u32).to_le_bytes());
        table.extend_from_slice(&place.length.to_le_bytes());
        table.extend_from_slice(&place.offset.to_le_bytes());
        table.extend_from_slice(&place.checksum.to_le_bytes());
        keys.extend_from_slice(key);
    }
    table.extend_from_slice(&keys);
    table
}

#[derive(Debug)]
pub struct Index {
    table: Vec<u8>,
    count: usize,
}

impl Index {
    pub fn new(table: Vec<u8>) -> Result<Self, Damaged> {
        let count = Reader(&table).fixed_u32()? as usize;
        let fits = count.checked_mul(ROW).is_some_and(|rows| rows + 4 <= table.len());
        if fits { Ok(Self { table, count }) } else { Err(Damaged) }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn find(&self, key: &[u8]) -> Result<Option<Place>, Damaged> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (place, found) = self.row(middle)?;
            match found.cmp(key) {
                Ordering::Equal => return Ok(Some(place)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    pub fn row(&self, at: usize) -> Result<(Place, &[u8]), Damaged> {
        let mut row = Reader(self.table.get(4 + at * ROW..).ok_or(Damaged)?);
        let start = row.fixed_u32()? as usize;
        let place =
            Place { length: row.fixed_u32()?, offset: row.fixed()?, checksum: row.fixed_u32()? };
        let keys = self.table.get(4 + self.count * ROW..).ok_or(Damaged)?;
        let end = match at + 1 < self.count {
            true => row.fixed_u32()? as usize,
            false => keys.len(),
        };
        Ok((place, keys.get(start..end).ok_or(Damaged)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_is_found_and_no_other(names in prop::collection::btree_set("[a-c]{0,4}", 0..30), other in "[a-d]{0,4}") {
            let rows: BTreeMap<Vec<u8>, Place> = names
                .iter()
                .enumerate()
                .map(|(at, name)| (key("PyPI", name), Place { offset: at as u64, length: 1, checksum: 2 }))
                .collect();
            let table = encode(rows.iter().map(|(key, place)| (key.as_slice(), *place)));
            let index = Index::new(table).unwrap();
            for (key, place) in &rows {
                prop_assert_eq!(index.find(key), Ok(Some(*place)));
            }
            prop_assert_eq!(index.find(&key("PyPI", &other)).unwrap().is_some(), names.contains(&other));
            prop_assert_eq!(index.find(&key("Debian:12", &other)), Ok(None));
        }

        #[test]
        fn damaged_tables_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(index) = Index::new(bytes) {
                let _ = index.find(b"PyPI\0x");
            }
        }
    }
}
