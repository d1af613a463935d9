//! Who sits where: the coordinates, node and GPU of every rank in a framework's own rank order, and its groups.
//!
//! The order is that of each framework's code: Megatron-Core `parallel_state.py` (`tp-cp-ep-dp-pp`, the leftmost fastest),
//! torchtitan `parallel_dims.py`, DeepSpeed `runtime/pipe/topology.py`, vLLM `distributed/parallel_state.py` (PP inside DP),
//! SGLang `distributed/parallel_state.py`, TensorRT-LLM `mapping.py` (CP fastest, EP before expert-TP).

use crate::framework::GroupKind;
use crate::mesh::{Convention, Mesh};
use crate::plan::Knobs;
use std::collections::BTreeMap;

/// How engines (a training run, or one serving replica) lie on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// GPUs of an engine.
    pub engine: u32,
    /// Nodes of an engine.
    pub nodes: u32,
    /// GPUs an engine uses of each of its nodes.
    pub per_node: u32,
    /// Engines that share a node; 1 when an engine takes a node or more.
    pub engines_per_node: u32,
}

impl Placement {
    /// Packs small engines into nodes; gives a large one as few nodes as it spreads over evenly.
    #[must_use]
    pub fn new(engine: u32, gpus_per_node: u32) -> Self {
        let engine = engine.max(1);
        let node = gpus_per_node.max(1);
        if engine <= node {
            return Self { engine, nodes: 1, per_node: engine, engines_per_node: node / engine };
        }
        let nodes = (engine.div_ceil(node)..=engine).find(|n| engine.is_multiple_of(*n)).unwrap_or(engine);
        Self { engine, nodes, per_node: engine / nodes, engines_per_node: 1 }
    }

    /// Nodes that so many engines need.
    #[must_use]
    pub const fn nodes_for(&self, engines: u32) -> u32 {
        if self.nodes == 1 { engines.div_ceil(self.engines_per_node) } else { engines.saturating_mul(self.nodes) }
    }

    /// The first node of an engine, and the first GPU it uses there.
    #[must_use]
    pub const fn first(&self, engine: u32) -> (u32, u32) {
        if self.nodes == 1 {
            (engine / self.engines_per_node, engine % self.engines_per_node * self.engine)
        } else {
            (engine.saturating_mul(self.nodes), 0)
        }
    }

    /// The node and the local GPU of a rank inside an engine.
    #[must_use]
    pub const fn locate(&self, engine: u32, rank: u32) -> (u32, u32) {
        let (node, gpu) = self.first(engine);
        (node + rank / self.per_node, gpu + rank % self.per_node)
    }
}

/// One rank: where it is and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The global rank; replicas are numbered one after the other.
    pub rank: u32,
    /// The serving replica (0 in training).
    pub replica: u32,
    /// The node.
    pub node: u32,
    /// The GPU of the node.
    pub local: u32,
    /// Its place in the tensor parallel group.
    pub tp: u32,
    /// Its place in the context parallel group.
    pub cp: u32,
    /// Its place in the data parallel group of attention.
    pub dp: u32,
    /// Its pipeline stage.
    pub pp: u32,
    /// Its place in the expert parallel group.
    pub ep: u32,
    /// Its place in the expert tensor parallel group.
    pub etp: u32,
    /// Its place in the expert data parallel group.
    pub edp: u32,
}

/// Every rank of a plan in a convention's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankMap {
    /// The convention whose order it is.
    pub convention: Convention,
    /// The ranks, ascending.
    pub ranks: Vec<Place>,
}

/// The coordinates of every rank.
#[must_use]
pub fn rank_map(convention: Convention, mesh: &Mesh, knobs: &Knobs, gpus_per_node: u32) -> RankMap {
    // Replicas that do not divide the data parallel ranks are none.
    let replicas = match knobs.replicas {
        0 => 1,
        r if mesh.dp_attention().is_multiple_of(r) => r,
        _ => 1,
    };
    let (tp, cp, pp, dp) = (mesh.tp(), mesh.cp(), mesh.pp(), mesh.dp_attention() / replicas);
    let engine = tp * cp * pp * dp;
    let placement = Placement::new(engine, gpus_per_node);
    let stage = tp * cp * dp;
    let mut ranks = Vec::with_capacity(mesh.world() as usize);
    for rank in 0..mesh.world() {
        let (replica, inner) = (rank / engine, rank % engine);
        let (node, local) = placement.locate(replica, inner);
        // `within` counts the ranks of one stage in the order the framework spreads experts over them.
        let (t, c, d, p, within) = match convention {
            Convention::Vllm => {
                let (t, c) = (inner % tp, inner / tp % cp);
                let (p, d) = (inner / (tp * cp) % pp, inner / (tp * cp * pp));
                (t, c, d, p, t + tp * (c + cp * d))
            }
            Convention::Trtllm => {
                let (c, t, d) = (inner % cp, inner / cp % tp, inner / (cp * tp) % dp);
                (t, c, d, inner / stage, inner % stage)
            }
            Convention::Product
            | Convention::Megatron
            | Convention::Bridge
            | Convention::Torchtitan
            | Convention::Deepspeed
            | Convention::Sglang => (inner % tp, inner / tp % cp, inner / (tp * cp) % dp, inner / stage, inner % stage),
        };
        let (ep, etp) = (mesh.ep(), mesh.etp());
        let (e, x) = match convention {
            Convention::Trtllm => (within % ep, within / ep % etp),
            Convention::Product
            | Convention::Megatron
            | Convention::Bridge
            | Convention::Torchtitan
            | Convention::Deepspeed
            | Convention::Vllm
            | Convention::Sglang => (within / etp % ep, within % etp),
        };
        let edp = within / (ep * etp);
        ranks.push(Place { rank, replica, node, local, tp: t, cp: c, dp: d, pp: p, ep: e, etp: x, edp });
    }
    RankMap { convention, ranks }
}

impl RankMap {
    /// The groups of one kind, listed as Megatron lists them: by their lowest rank, members ascending.
    ///
    /// That is Megatron's formula (coordinates outside the group run leftmost fastest), as strides grow along the order.
    #[must_use]
    pub fn groups(&self, kind: GroupKind) -> Vec<Vec<u32>> {
        let mut by_rest: BTreeMap<[u32; 5], Vec<u32>> = BTreeMap::new();
        for r in &self.ranks {
            let rest = match kind {
                GroupKind::Tp => [r.replica, 0, r.cp, r.dp, r.pp],
                GroupKind::Cp => [r.replica, r.tp, 0, r.dp, r.pp],
                GroupKind::Dp => [r.replica, r.tp, r.cp, 0, r.pp],
                GroupKind::DpCp => [r.replica, r.tp, 0, 0, r.pp],
                GroupKind::Pp => [r.replica, r.tp, r.cp, r.dp, 0],
                GroupKind::Ep => [r.replica, 0, r.etp, r.edp, r.pp],
                GroupKind::Etp => [r.replica, r.ep, 0, r.edp, r.pp],
                GroupKind::Edp => [r.replica, r.ep, r.etp, 0, r.pp],
            };
            by_rest.entry(rest).or_default().push(r.rank);
        }
        let mut groups: Vec<Vec<u32>> = by_rest.into_values().collect();
        groups.sort_unstable();
        groups
    }

    /// Ranks that hold the embedding and ranks that hold the head: first and last of each pipeline group.
    #[must_use]
    pub fn embedding_groups(&self) -> Vec<Vec<u32>> {
        let ends = |group: Vec<u32>| match (group.first(), group.last()) {
            (Some(first), Some(last)) if first != last => vec![*first, *last],
            _ => group,
        };
        self.groups(GroupKind::Pp).into_iter().map(ends).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::group;
    use crate::launch::tests::Dice;

    fn map(convention: Convention, mesh: Mesh) -> RankMap {
        rank_map(convention, &mesh, &Knobs::default(), 8)
    }

    fn text(groups: &[Vec<u32>]) -> String {
        groups.iter().map(|g| format!("{g:?}").replace(' ', "")).collect()
    }

    #[test]
    fn megatrons_tables_of_sixteen() {
        let one = map(Convention::Megatron, Mesh::new(2, 1, 2, 4, 4, 1).expect("factors that divide"));
        let pairs = "[0,1][2,3][4,5][6,7][8,9][10,11][12,13][14,15]";
        let strided = "[0,2,4,6][1,3,5,7][8,10,12,14][9,11,13,15]";
        let fours = "[0,1,2,3][4,5,6,7][8,9,10,11][12,13,14,15]";
        assert_eq!(text(&one.groups(GroupKind::Tp)), pairs);
        assert_eq!(text(&one.groups(GroupKind::Dp)), strided);
        assert_eq!(text(&one.groups(GroupKind::DpCp)), strided);
        assert_eq!(text(&one.groups(GroupKind::Ep)), fours);
        assert_eq!(text(&one.groups(GroupKind::Edp)), "[0,4][1,5][2,6][3,7][8,12][9,13][10,14][11,15]");
        assert!(one.groups(GroupKind::Etp).iter().all(|g| g.len() == 1));
        assert_eq!(text(&one.groups(GroupKind::Pp)), "[0,8][1,9][2,10][3,11][4,12][5,13][6,14][7,15]");
        assert_eq!(one.embedding_groups(), one.groups(GroupKind::Pp));
        let two = map(Convention::Megatron, Mesh::new(2, 1, 2, 4, 4, 2).expect("factors that divide"));
        assert_eq!(text(&two.groups(GroupKind::Etp)), pairs);
        assert_eq!(text(&two.groups(GroupKind::Ep)), strided);
        assert!(two.groups(GroupKind::Edp).iter().all(|g| g.len() == 1));
        let cp = map(Convention::Megatron, Mesh::new(2, 2, 2, 2, 4, 1).expect("factors that divide"));
        assert!(text(&cp.groups(GroupKind::Cp)).starts_with("[0,2][1,3][4,6]"));
        assert!(text(&cp.groups(GroupKind::Dp)).starts_with("[0,4][1,5][2,6]"));
        assert_eq!(text(&cp.groups(GroupKind::DpCp)), strided);
        assert_eq!(text(&cp.groups(GroupKind::Ep)), fours);
    }

    #[test]
    fn torchtitan_and_deepspeed_of_sixteen() {
        let titan = map(Convention::Torchtitan, Mesh::new(2, 1, 2, 4, 4, 1).expect("factors that divide"));
        assert_eq!(text(&titan.groups(GroupKind::Ep)), "[0,1,2,3][4,5,6,7][8,9,10,11][12,13,14,15]");
        assert!(text(&titan.groups(GroupKind::Edp)).starts_with("[0,4][1,5]"));
        let classic = map(Convention::Deepspeed, Mesh::new(2, 1, 2, 4, 4, 2).expect("factors that divide"));
        assert_eq!(text(&classic.groups(GroupKind::Ep)), "[0,2,4,6][1,3,5,7][8,10,12,14][9,11,13,15]");
        assert!(classic.groups(GroupKind::Edp).iter().all(|g| g.len() == 1));
        let auto = map(Convention::Deepspeed, Mesh::new(2, 1, 1, 8, 4, 1).expect("factors that divide"));
        assert!(text(&auto.groups(GroupKind::Edp)).starts_with("[0,4,8,12]"));
    }

    #[test]
    fn vllm_of_sixteen() {
        let map = map(Convention::Vllm, Mesh::new(2, 1, 2, 4, 8, 1).expect("factors that divide"));
        assert!(text(&map.groups(GroupKind::Tp)).starts_with("[0,1][2,3]"));
        assert!(text(&map.groups(GroupKind::Pp)).starts_with("[0,2][1,3][4,6]"));
        assert_eq!(text(&map.groups(GroupKind::Ep)), "[0,1,4,5,8,9,12,13][2,3,6,7,10,11,14,15]");
        let dp = map.groups(GroupKind::Dp);
        for group in [[0, 4, 8, 12], [2, 6, 10, 14], [1, 5, 9, 13]] {
            assert!(dp.contains(&group.to_vec()));
        }
    }

    #[test]
    fn sglang_and_tensorrt_llm_of_sixteen() {
        let all = map(Convention::Sglang, Mesh::new(2, 1, 2, 4, 8, 1).expect("factors that divide"));
        assert_eq!(text(&all.groups(GroupKind::Ep)), "[0,1,2,3,4,5,6,7][8,9,10,11,12,13,14,15]");
        assert!(text(&all.groups(GroupKind::Tp)).starts_with("[0,1][2,3]"));
        assert!(text(&all.groups(GroupKind::Pp)).starts_with("[0,8]"));
        let half = map(Convention::Sglang, Mesh::new(2, 1, 2, 4, 4, 2).expect("factors that divide"));
        assert!(text(&half.groups(GroupKind::Ep)).starts_with("[0,2,4,6][1,3,5,7]"));
        assert!(text(&half.groups(GroupKind::Etp)).starts_with("[0,1]"));
        let trt = map(Convention::Trtllm, Mesh::new(8, 1, 2, 1, 4, 2).expect("factors that divide"));
        assert!(text(&trt.groups(GroupKind::Ep)).starts_with("[0,1,2,3][4,5,6,7]"));
        assert!(text(&trt.groups(GroupKind::Etp)).starts_with("[0,4][1,5]"));
    }

    /// The strides that time and memory are priced with are those of the map, for every mesh a convention can say.
    #[test]
    fn strides_agree_with_the_framework_module() {
        let mut dice = Dice::new(11);
        let mut seen = 0;
        while seen < 2000 {
            let convention = *dice.pick(&Convention::ALL);
            let [tp, cp, pp, dp] = [0; 4].map(|_| *dice.pick(&[1, 2, 3, 4]));
            let replicas = *dice.pick(&[1, 1, 2]);
            let stage = tp * cp * dp;
            let (ep, etp) = match convention {
                Convention::Vllm => *dice.pick(&[(stage, 1), (1, stage)]),
                Convention::Product
                | Convention::Megatron
                | Convention::Bridge
                | Convention::Torchtitan
                | Convention::Deepspeed
                | Convention::Sglang
                | Convention::Trtllm => (*dice.pick(&[1, 2, 3, 4, 8]), *dice.pick(&[1, 2, 4])),
            };
            if stage % (ep * etp) != 0 {
                continue;
            }
            let mesh = Mesh::new(tp, cp, pp, dp * replicas, ep, etp).expect("factors that divide");
            let knobs = Knobs { replicas, ..Knobs::default() };
            let map = rank_map(convention, &mesh, &knobs, 8);
            seen += 1;
            for kind in GroupKind::ALL {
                // `group` gives vLLM's dp_cp as dp alone: nothing is reduced over it in serving.
                if convention == Convention::Vllm && kind == GroupKind::DpCp && cp > 1 {
                    continue;
                }
                let told = group(convention, &mesh, replicas, kind);
                let mut members: Vec<u32> = (0..told.outer.0)
                    .flat_map(|o| (0..told.inner.0).map(move |i| o * told.outer.1 + i * told.inner.1))
                    .collect();
                members.sort_unstable();
                let groups = map.groups(kind);
                assert_eq!(groups[0], members, "{convention} {mesh:?} {}", kind.name());
                assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), mesh.world() as usize);
                assert!(groups.iter().all(|g| g.len() == members.len()));
            }
        }
    }

    #[test]
    fn replicas_share_a_node_or_take_whole_ones() {
        let small = Placement::new(2, 8);
        assert_eq!((small.engines_per_node, small.nodes_for(5), small.first(5)), (4, 2, (1, 2)));
        let odd = Placement::new(3, 8);
        assert_eq!((odd.engines_per_node, odd.locate(2, 1)), (2, (1, 1)));
        let large = Placement::new(12, 8);
        assert_eq!((large.nodes, large.per_node, large.locate(1, 7)), (2, 6, (3, 1)));
    }
}
