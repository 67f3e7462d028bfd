//! From who somebody is to the group of one ioband device.

use super::{GroupId, GroupType, Identity, ProcessId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// The groups of one ioband device, each with the scheduler's key for it.
///
/// Everything is found with one hash look-up, except for cgroups, where it takes one for each step from the
/// caller's cgroups up to the root, however many groups there are.
#[derive(Clone, Debug)]
pub struct GroupMap<K> {
    group_type: GroupType,
    default: K,
    /// In the order in which they were attached: tables and statuses list them so.
    groups: Vec<Group<K>>,
    by_number: HashMap<u32, usize>,
    by_name: HashMap<Arc<str>, usize>,
}

#[derive(Clone, Debug)]
struct Group<K> {
    id: GroupId,
    key: K,
    /// Type `pid`: the process that is meant. A group that was attached before its process exists takes the
    /// first one; after that no other with the same number.
    process: OnceLock<ProcessId>,
}

/// A group with this id is attached already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("group {0} is attached already; change its weight with `weight {0}:WEIGHT`, or detach it first")]
pub struct DuplicateGroup(pub GroupId);

impl<K: Copy> GroupMap<K> {
    /// Only the default group.
    pub fn new(group_type: GroupType, default: K) -> Self {
        Self { group_type, default, groups: Vec::new(), by_number: HashMap::new(), by_name: HashMap::new() }
    }

    /// How callers are told apart here.
    pub fn group_type(&self) -> GroupType {
        self.group_type
    }

    /// The default group's key.
    pub fn default_key(&self) -> K {
        self.default
    }

    /// Attaches a group. An id that is not of the type's kind (a name under `user`) is kept and never matches:
    /// those who read ids from people refuse it before.
    ///
    /// Under type `pid` the group belongs to the process that has the number now, or else to the first that is
    /// seen with it; once that has ended, it matches nobody. A group that is removed and inserted anew would take a
    /// later process with the same number: [`GroupMap::rearrange`] keeps those that stay.
    pub fn insert(&mut self, id: GroupId, key: K) -> Result<(), DuplicateGroup> {
        if self.get(&id).is_some() {
            return Err(DuplicateGroup(id));
        }
        self.push(id, key);
        Ok(())
    }

    fn push(&mut self, id: GroupId, key: K) {
        let process = match id {
            GroupId::Number(tgid) if self.group_type == GroupType::Pid => {
                ProcessId::running(tgid).map(OnceLock::from).unwrap_or_default()
            }
            _ => OnceLock::new(),
        };
        self.groups.push(Group { id, key, process });
        self.index(self.groups.len() - 1);
    }

    /// Attaches exactly the groups that are wanted, in their order, told apart by `group_type`, and says whose keys are
    /// not used any more. `key` is asked for the key of each, with the one that it has already: under the same type a
    /// group that is there stays the same group, and under type `pid` keeps to its process. Where an id is wanted twice
    /// the first stands.
    pub fn rearrange<W>(
        &mut self,
        group_type: GroupType,
        wanted: impl IntoIterator<Item = (GroupId, W)>,
        mut key: impl FnMut(Option<K>, W) -> K,
    ) -> Vec<K> {
        let old = std::mem::replace(self, Self::new(group_type, self.default));
        let stays = old.group_type == group_type;
        let mut old: BTreeMap<GroupId, Group<K>> =
            old.groups.into_iter().map(|group| (group.id.clone(), group)).collect();
        for (id, wanted) in wanted {
            if self.get(&id).is_some() {
                continue;
            }
            match if stays { old.remove(&id) } else { None } {
                Some(group) => {
                    self.groups.push(Group { key: key(Some(group.key), wanted), ..group });
                    self.index(self.groups.len() - 1);
                }
                None => self.push(id, key(None, wanted)),
            }
        }
        old.into_values().map(|group| group.key).collect()
    }

    /// Detaches a group; its key, if it was attached.
    pub fn remove(&mut self, id: &GroupId) -> Option<K> {
        let at = self.position(id)?;
        let group = self.groups.remove(at);
        match &group.id {
            GroupId::Number(number) => self.by_number.remove(number),
            GroupId::Name(name) => self.by_name.remove(name),
        };
        (at..self.groups.len()).for_each(|later| self.index(later));
        Some(group.key)
    }

    /// The key of an attached group.
    pub fn get(&self, id: &GroupId) -> Option<K> {
        self.position(id).map(|at| self.groups[at].key)
    }

    /// The attached groups, without the default group, in the order in which they were attached.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&GroupId, K)> {
        self.groups.iter().map(|group| (&group.id, group.key))
    }

    /// The process that each group keeps to, in the order of [`GroupMap::iter`]; `None` under another type than `pid`, or
    /// if there was none yet.
    pub fn processes(&self) -> impl ExactSizeIterator<Item = Option<ProcessId>> {
        self.groups.iter().map(|group| group.process.get().copied())
    }

    /// Under type `pid`: the group keeps to this process, and not to one that has its number by now.
    pub fn keep_to(&mut self, id: &GroupId, process: ProcessId) {
        if self.group_type == GroupType::Pid
            && let Some(at) = self.position(id)
        {
            self.groups[at].process = OnceLock::from(process);
        }
    }

    /// The group of somebody who accesses an image.
    pub fn classify(&self, identity: &Identity, image: &str) -> K {
        match self.group_type {
            GroupType::None => None,
            GroupType::User => self.numbered(identity.uid),
            GroupType::Gid => self.numbered(identity.gid),
            GroupType::Pgrp => identity.pgrp.and_then(|pgrp| self.numbered(pgrp)),
            GroupType::Pid => identity.process.and_then(|process| {
                self.numbered(process.tgid).filter(|group| *group.process.get_or_init(|| process) == process)
            }),
            GroupType::Cgroup => self.cgroup(identity),
            GroupType::Image => self.named(image),
        }
        .map_or(self.default, |group| group.key)
    }

    /// The group with the longest path that one of the caller's cgroups is, or is below.
    fn cgroup(&self, identity: &Identity) -> Option<&Group<K>> {
        let mut best: Option<(usize, &Group<K>)> = None;
        for path in &*identity.cgroups {
            let found = ancestors(path).find_map(|path| Some((path.len(), self.named(path)?)));
            // Of two as long, the first stays: v2 before v1.
            best = match (best, found) {
                (Some(best), Some(found)) if found.0 <= best.0 => Some(best),
                (best, None) => best,
                (_, found) => found,
            };
        }
        best.map(|(_, group)| group)
    }

    fn numbered(&self, number: u32) -> Option<&Group<K>> {
        self.by_number.get(&number).map(|at| &self.groups[*at])
    }

    fn named(&self, name: &str) -> Option<&Group<K>> {
        self.by_name.get(name).map(|at| &self.groups[*at])
    }

    fn position(&self, id: &GroupId) -> Option<usize> {
        match id {
            GroupId::Number(number) => self.by_number.get(number).copied(),
            GroupId::Name(name) => self.by_name.get(name).copied(),
        }
    }

    fn index(&mut self, at: usize) {
        match &self.groups[at].id {
            GroupId::Number(number) => self.by_number.insert(*number, at),
            GroupId::Name(name) => self.by_name.insert(name.clone(), at),
        };
    }
}

/// `/a/b`, `/a`, `/`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(at) if at > 0 => Some(&path[..at]),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: i32 = -1;

    fn name(text: &str) -> GroupId {
        GroupId::Name(text.into())
    }

    fn map(group_type: GroupType, groups: &[(GroupId, i32)]) -> GroupMap<i32> {
        let mut map = GroupMap::new(group_type, DEFAULT);
        groups.iter().for_each(|(id, key)| map.insert(id.clone(), *key).unwrap());
        map
    }

    fn in_cgroups(paths: &[&str]) -> Identity {
        Identity { cgroups: paths.iter().map(|path| Box::from(*path)).collect(), ..Identity::from_ids(0, 0) }
    }

    #[test]
    fn each_type_looks_at_its_own_number() {
        let process = ProcessId { tgid: 3, birth: 9 };
        let caller = Identity { process: Some(process), pgrp: Some(4), ..Identity::from_ids(1, 2) };
        let groups: Vec<_> = (1..=4).map(|n| (GroupId::Number(n), n as i32)).collect();
        for (group_type, key) in [
            (GroupType::None, DEFAULT),
            (GroupType::User, 1),
            (GroupType::Gid, 2),
            (GroupType::Pgrp, 4),
            (GroupType::Cgroup, DEFAULT),
            (GroupType::Image, DEFAULT),
        ] {
            assert_eq!(map(group_type, &groups).classify(&caller, "3"), key, "{group_type:?}");
        }
        for group_type in [GroupType::Pid, GroupType::Pgrp] {
            assert_eq!(map(group_type, &groups).classify(&Identity::from_ids(1, 2), "x"), DEFAULT);
        }
    }

    #[test]
    fn images_go_by_name() {
        let map = map(GroupType::Image, &[(name("vm1.img"), 1), (name("vm2.img"), 2)]);
        let anybody = Identity::from_ids(0, 0);
        assert_eq!(map.classify(&anybody, "vm2.img"), 2);
        assert_eq!(map.classify(&anybody, "vm3.img"), DEFAULT);
    }

    #[test]
    fn a_cgroup_is_its_path_and_all_below_and_the_longest_wins() {
        let map = map(GroupType::Cgroup, &[(name("/a"), 1), (name("/a/b"), 2), (name("/vm"), 3)]);
        for (paths, key) in [
            (&["/a"][..], 1),
            (&["/a/c/d"], 1),
            (&["/a/b"], 2),
            (&["/a/b/c"], 2),
            (&["/ab"], DEFAULT),
            (&["/"], DEFAULT),
            (&[], DEFAULT),
            (&["/", "/vm/7"], 3),
            (&["/vm", "/a/b/c"], 2),
            (&["/vm/7", "/a"], 3),
            (&["relative"], DEFAULT),
            (&[""], DEFAULT),
        ] {
            assert_eq!(map.classify(&in_cgroups(paths), "x"), key, "{paths:?}");
        }
    }

    #[test]
    fn the_root_cgroup_is_everybody() {
        let map = map(GroupType::Cgroup, &[(name("/"), 1), (name("/a"), 2)]);
        assert_eq!(map.classify(&in_cgroups(&["/z/y"]), "x"), 1);
        assert_eq!(map.classify(&in_cgroups(&["/a/y"]), "x"), 2);
        assert_eq!(map.classify(&in_cgroups(&["/"]), "x"), 1);
    }

    #[test]
    fn groups_stay_in_the_order_of_attachment_and_are_there_once() {
        let mut map = map(GroupType::User, &[]);
        for n in [5, 1, 9, 3] {
            map.insert(GroupId::Number(n), n as i32).unwrap();
        }
        assert_eq!(map.insert(GroupId::Number(9), 0), Err(DuplicateGroup(GroupId::Number(9))));
        assert_eq!(map.remove(&GroupId::Number(1)), Some(1));
        assert_eq!(map.remove(&GroupId::Number(1)), None);
        map.insert(GroupId::Number(1), 11).unwrap();
        assert_eq!(map.iter().map(|(_, key)| key).collect::<Vec<_>>(), [5, 9, 3, 11]);
        for (n, key) in [(5, 5), (9, 9), (3, 3), (1, 11), (7, DEFAULT)] {
            assert_eq!(map.classify(&Identity::from_ids(n, 0), "x"), key);
            assert_eq!(map.get(&GroupId::Number(n)), Some(key).filter(|key| *key != DEFAULT));
        }
    }

    #[test]
    fn a_pid_group_keeps_to_the_first_process_it_meets() {
        // Above any pid the kernel gives out, so nothing runs under it now.
        let tgid = 1 << 30;
        let map = map(GroupType::Pid, &[(GroupId::Number(tgid), 1)]);
        let process =
            |birth| Identity { process: Some(ProcessId { tgid, birth }), ..Identity::from_ids(0, 0) };
        assert_eq!(map.classify(&process(1), "x"), 1);
        assert_eq!(map.classify(&process(2), "x"), DEFAULT);
        assert_eq!(map.clone().classify(&process(2), "x"), DEFAULT);
        assert_eq!(map.classify(&process(1), "x"), 1);
    }

    #[test]
    fn a_pid_group_means_the_process_that_runs_when_it_is_attached() {
        let us = ProcessId::running(std::process::id()).unwrap();
        let map = map(GroupType::Pid, &[(GroupId::Number(us.tgid), 1)]);
        let caller = |process| Identity { process: Some(process), ..Identity::from_ids(0, 0) };
        let later = ProcessId { birth: us.birth + 1, ..us };
        assert_eq!(map.classify(&caller(later), "x"), DEFAULT);
        assert_eq!(map.classify(&caller(us), "x"), 1);
    }

    #[test]
    fn groups_that_stay_are_the_same_groups_in_another_order() {
        let mut map = map(GroupType::User, &[1, 2, 3].map(|n| (GroupId::Number(n), n as i32)));
        let wanted = |all: &[u32]| all.iter().map(|n| (GroupId::Number(*n), *n as i32)).collect::<Vec<_>>();
        let keys = |map: &GroupMap<i32>| map.iter().map(|(_, key)| key).collect::<Vec<_>>();
        // New ones get keys of ten times their number; where one is wanted twice the first stands.
        let key = |key: Option<i32>, n: i32| key.unwrap_or(10 * n);
        assert_eq!(map.rearrange(GroupType::User, wanted(&[4, 3, 1, 4]), key), [2]);
        assert_eq!(keys(&map), [40, 3, 1]);
        for (n, key) in [(1, 1), (2, DEFAULT), (3, 3), (4, 40)] {
            assert_eq!(map.classify(&Identity::from_ids(n, 0), "x"), key);
        }
        // Under another type the same number is another group.
        assert_eq!(map.rearrange(GroupType::Gid, wanted(&[1]), key), [1, 3, 40]);
        assert_eq!((keys(&map), map.group_type()), (vec![10], GroupType::Gid));
        assert_eq!(map.classify(&Identity::from_ids(0, 1), "x"), 10);
        assert_eq!(map.classify(&Identity::from_ids(1, 0), "x"), DEFAULT);
    }

    #[test]
    fn an_ended_process_never_matches_again_whatever_changes_around_its_group() {
        let tgid = 1 << 30;
        let mut map = map(GroupType::Pid, &[(GroupId::Number(tgid), 1)]);
        let process =
            |birth| Identity { process: Some(ProcessId { tgid, birth }), ..Identity::from_ids(0, 0) };
        assert_eq!(map.classify(&process(1), "x"), 1);
        let wanted = || [(GroupId::Number(5), 5), (GroupId::Number(tgid), 1)];
        assert_eq!(map.rearrange(GroupType::Pid, wanted(), |key, new| key.unwrap_or(new)), Vec::<i32>::new());
        assert_eq!(map.classify(&process(2), "x"), DEFAULT, "another process with the same number");
        assert_eq!(map.classify(&process(1), "x"), 1);
        assert_eq!(map.processes().nth(1), Some(Some(ProcessId { tgid, birth: 1 })));
        // Detached and attached again, it is the group of who has the number then.
        assert_eq!(map.rearrange(GroupType::Pid, [], |key, new| key.unwrap_or(new)), [5, 1]);
        map.rearrange(GroupType::Pid, wanted(), |key, new| key.unwrap_or(new));
        assert_eq!(map.classify(&process(2), "x"), 1);
        assert_eq!(map.classify(&process(1), "x"), DEFAULT);
    }
}
