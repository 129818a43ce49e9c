//! A table of a few words an entry, for millions of them: nothing but entries, densely filled.

use std::mem::{replace, take};

/// Parts that the table consists of; each grows by itself, so that only one is there twice.
const SHARD_BITS: u32 = 6;
/// Entries that the first part has room for at first. Each part begins with a little more than the
/// one before, up to a fifth more in the last: so they grow one after the other.
const FIRST: usize = 128;
/// Entries of a block. Parts consist of blocks of one size, which one that has grown hands to the
/// next. (Given to the allocator, a piece leaves a hole: a little too small for the next one, or in
/// the arena of another thread. That took 3 to 5 bytes an entry of 8.)
const BLOCK: usize = 256;

/// Entries of `ALL` words of 32 bits, whose first `KEY` words are a key.
///
/// Keys are hashes already: the first two words say where an entry lies. Between 71 and 85 % of the
/// room is filled, so an entry takes 4 × `ALL` bytes times 1.18 to 1.41; a table that doubles takes
/// up to 2.3 times, and three times while it grows.
///
/// The search is linear (Knuth, volume 3, 6.4, algorithm L), and the place of a key is its share of
/// all hashes times the room, which allows any room.
#[derive(Debug)]
pub(super) struct Table<const KEY: usize, const ALL: usize> {
    shards: Vec<Shard<KEY, ALL>>,
    /// Blocks that the part that has grown last needs no more.
    spare: Vec<Block<ALL>>,
}

type Block<const ALL: usize> = Box<[[u32; ALL]]>;

#[derive(Debug)]
struct Shard<const KEY: usize, const ALL: usize> {
    blocks: Vec<Block<ALL>>,
    /// Entries that may lie in the blocks; the end of the last one may be left over.
    room: usize,
    filled: usize,
    /// Its first room.
    first: usize,
}

impl<const KEY: usize, const ALL: usize> Default for Table<KEY, ALL> {
    fn default() -> Self {
        let first = |number: usize| FIRST + ((number * FIRST / 5) >> SHARD_BITS);
        let shard = |number| Shard { blocks: Vec::new(), room: 0, filled: 0, first: first(number) };
        Self { shards: (0..1 << SHARD_BITS).map(shard).collect(), spare: Vec::new() }
    }
}

impl<const KEY: usize, const ALL: usize> Table<KEY, ALL> {
    /// Returns the entry with this key.
    pub(super) fn get(&self, key: [u32; KEY]) -> Option<&[u32; ALL]> {
        let key = shown(key);
        let shard = &self.shards[shard_of(&key)];
        shard.find(&key).ok().map(|place| shard.at(place))
    }

    /// Puts an entry in the place of the one with its key, if there is one, and returns that.
    pub(super) fn insert(&mut self, mut entry: [u32; ALL]) -> Option<[u32; ALL]> {
        let mut key = [0; KEY];
        key.copy_from_slice(&entry[..KEY]);
        let key = shown(key);
        entry[..KEY].copy_from_slice(&key);
        let shard = &mut self.shards[shard_of(&key)];
        match shard.find(&key) {
            Ok(place) => Some(replace(shard.at_mut(place), entry)),
            Err(place) => {
                shard.add(place, entry, &mut self.spare);
                None
            }
        }
    }

    /// Returns all entries, in no order, to change what is not their key.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut [u32; ALL]> {
        let blocks = self.shards.iter_mut().flat_map(|shard| shard.blocks.iter_mut());
        blocks.flat_map(|block| block.iter_mut()).filter(|entry| !is_empty::<KEY>(&entry[..]))
    }
}

impl<const KEY: usize, const ALL: usize> Shard<KEY, ALL> {
    fn at(&self, place: usize) -> &[u32; ALL] {
        &self.blocks[place / BLOCK][place % BLOCK]
    }

    fn at_mut(&mut self, place: usize) -> &mut [u32; ALL] {
        &mut self.blocks[place / BLOCK][place % BLOCK]
    }

    /// Returns the place of the entry with this key, or else the one where it would lie.
    fn find(&self, key: &[u32; KEY]) -> Result<usize, usize> {
        if self.room == 0 {
            return Err(0);
        }
        let mut place = ((u128::from(hash_of(key) << SHARD_BITS) * self.room as u128) >> 64) as usize;
        loop {
            let entry = self.at(place);
            if entry[..KEY] == key[..] {
                return Ok(place);
            }
            if is_empty::<KEY>(&entry[..]) {
                return Err(place);
            }
            place = if place + 1 == self.room { 0 } else { place + 1 };
        }
    }

    fn add(&mut self, place: usize, entry: [u32; ALL], spare: &mut Vec<Block<ALL>>) {
        self.filled += 1;
        if self.filled * 20 <= self.room * 17 {
            *self.at_mut(place) = entry;
            return;
        }
        self.room = (self.room + self.room / 5).max(self.first);
        let former = take(&mut self.blocks);
        let empty = || vec![[0; ALL]; BLOCK].into_boxed_slice();
        self.blocks = (0..self.room.div_ceil(BLOCK)).map(|_| spare.pop().unwrap_or_else(empty)).collect();
        for mut block in former {
            for entry in &mut block {
                self.put(replace(entry, [0; ALL]));
            }
            spare.push(block);
        }
        self.put(entry);
    }

    /// Puts an entry where there is room and none with its key.
    fn put(&mut self, entry: [u32; ALL]) {
        let mut key = [0; KEY];
        key.copy_from_slice(&entry[..KEY]);
        if !is_empty::<KEY>(&key)
            && let Err(place) = self.find(&key)
        {
            *self.at_mut(place) = entry;
        }
    }
}

/// A key of zeros means that nothing is there, so the one key that is zero becomes one.
fn shown<const KEY: usize>(mut key: [u32; KEY]) -> [u32; KEY] {
    if is_empty::<KEY>(&key) {
        key[KEY - 1] = 1;
    }
    key
}

fn is_empty<const KEY: usize>(entry: &[u32]) -> bool {
    entry[..KEY].iter().all(|word| *word == 0)
}

fn hash_of(key: &[u32]) -> u64 {
    u64::from(key[0]) << 32 | u64::from(key[1])
}

fn shard_of(key: &[u32]) -> usize {
    (hash_of(key) >> (64 - SHARD_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_was_put_last_is_what_is_found() {
        let (mut table, mut model) = (Table::<3, 4>::default(), HashMap::new());
        let mut random = fastrand::Rng::with_seed(7);
        for step in 0..300_000 {
            // Few enough keys that many come again; some of them lie at the ends of a part.
            let key = [random.u32(0..40_000).wrapping_mul(0x9e37_79b9), if random.bool() { 0 } else { u32::MAX }, 0];
            assert_eq!(table.insert([key[0], key[1], key[2], step]).map(|entry| entry[3]), model.insert(shown(key), step));
            let other = [random.u32(0..40_000).wrapping_mul(0x9e37_79b9), 0, 0];
            assert_eq!(table.get(other).map(|entry| entry[3]), model.get(&shown(other)).copied());
        }
        assert_eq!(table.entries_mut().count(), model.len());
        assert_eq!(table.get([0; 3]), table.get([0, 0, 1]));
    }

    #[test]
    fn an_entry_takes_less_than_one_and_a_half_of_its_size() {
        let (mut table, mut random) = (Table::<2, 2>::default(), fastrand::Rng::with_seed(7));
        for number in 1..=1_000_000_usize {
            table.insert([random.u32(..), random.u32(..)]);
            if number.is_multiple_of(50_000) {
                let blocks = table.spare.len() + table.shards.iter().map(|shard| shard.blocks.len()).sum::<usize>();
                let room = BLOCK * blocks;
                assert!(room * 2 < number * 3, "room for {room} for {number}");
            }
        }
    }
}
