//! Rank maps against the groups that Megatron's own code makes for 50 random meshes.

use meshwright::framework::GroupKind;
use meshwright::launch::ranks::rank_map;
use meshwright::mesh::{Convention, Mesh};
use meshwright::plan::Knobs;

const FACTS: &str = include_str!("facts/megatron_ranks.txt");

#[test]
fn groups_are_those_of_megatrons_own_code() {
    let mut meshes = 0;
    let mut map = None;
    let mut wide: Vec<GroupKind> = Vec::new();
    let check_rest = |map: &Option<meshwright::launch::ranks::RankMap>, wide: &[GroupKind]| {
        let Some(map) = map else { return };
        for kind in GroupKind::ALL.into_iter().filter(|k| !wide.contains(k)) {
            assert!(map.groups(kind).iter().all(|g| g.len() == 1), "{kind:?} should be singletons");
        }
    };
    for line in FACTS.lines().filter(|l| !l.starts_with('#')) {
        let (word, rest) = line.split_once(' ').expect("a kind and its groups");
        if word == "mesh" {
            check_rest(&map, &wide);
            wide.clear();
            let n: Vec<u32> = rest.split(' ').map(|v| v.parse().unwrap()).collect();
            let [world, tp, cp, pp, ep, etp] = n[..] else { panic!("six numbers: {line}") };
            let mesh = Mesh::new(tp, cp, pp, world / (tp * cp * pp), ep, etp).expect("a mesh Megatron made");
            map = Some(rank_map(Convention::Megatron, &mesh, &Knobs::default(), 8));
            meshes += 1;
            continue;
        }
        let kind = GroupKind::ALL.into_iter().find(|k| k.name() == word).expect("a kind of group");
        let groups: Vec<Vec<u32>> =
            rest.split(' ').map(|g| g.split(',').map(|r| r.parse().unwrap()).collect()).collect();
        assert_eq!(map.as_ref().expect("a mesh first").groups(kind), groups, "{line}");
        wide.push(kind);
    }
    check_rest(&map, &wide);
    assert_eq!(meshes, 50);
}
