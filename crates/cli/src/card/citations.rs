//! The papers that losses come from.

/// A paper as BibTeX has it.
pub(crate) struct Paper {
    key: &'static str,
    title: &'static str,
    authors: &'static str,
    year: u16,
    place: Place,
}

/// The number of a paper.
enum Place {
    Arxiv(&'static str),
    Doi(&'static str),
}

use Place::{Arxiv, Doi};

impl Paper {
    pub(crate) fn to_bibtex(&self) -> String {
        let Self {
            key,
            title,
            authors,
            year,
            place,
        } = self;
        let (kind, place) = match place {
            Arxiv(number) => (
                "misc",
                format!(
                    "    eprint={{{number}}},\n    archivePrefix={{arXiv}},\n    url={{https://arxiv.org/abs/{number}}}\n"
                ),
            ),
            Doi(doi) => ("article", format!("    doi={{{doi}}}\n")),
        };
        format!(
            "@{kind}{{{key},\n    title={{{title}}},\n    author={{{authors}}},\n    year={{{year}}},\n{place}}}\n"
        )
    }
}

/// The paper of a loss, by the loss's class name; none where its authors name none.
pub(crate) fn citation(loss: &str) -> Option<&'static Paper> {
    let found = PAPERS.iter().find(|(losses, _)| losses.contains(&loss));
    found.map(|(_, paper)| paper)
}

/// The paper behind sentence-transformers.
pub(crate) const SENTENCE_BERT: Paper = Paper {
    key: "reimers-2019-sentence-bert",
    title: "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
    authors: "Nils Reimers and Iryna Gurevych",
    year: 2019,
    place: Arxiv("1908.10084"),
};

/// Papers, each with the losses of their classes.
const PAPERS: &[(&[&str], Paper)] = &[
    (&["SoftmaxLoss"], SENTENCE_BERT),
    (
        &["AdaptiveLayerLoss", "Matryoshka2dLoss"],
        Paper {
            key: "li20242d",
            title: "2D Matryoshka Sentence Embeddings",
            authors: "Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li",
            year: 2024,
            place: Arxiv("2402.14776"),
        },
    ),
    (
        &["AnglELoss"],
        Paper {
            key: "li-li-2024-aoe",
            title: "{A}o{E}: Angle-optimized Embeddings for Semantic Textual Similarity",
            authors: "Xianming Li and Jing Li",
            year: 2024,
            place: Doi("10.18653/v1/2024.acl-long.101"),
        },
    ),
    (
        &[
            "BatchAllTripletLoss",
            "BatchHardSoftMarginTripletLoss",
            "BatchHardTripletLoss",
            "BatchSemiHardTripletLoss",
            "TripletLoss",
        ],
        Paper {
            key: "hermans2017defense",
            title: "In Defense of the Triplet Loss for Person Re-Identification",
            authors: "Alexander Hermans and Lucas Beyer and Bastian Leibe",
            year: 2017,
            place: Arxiv("1703.07737"),
        },
    ),
    (
        &["CachedMultipleNegativesRankingLoss"],
        Paper {
            key: "gao2021scaling",
            title: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
            authors: "Luyu Gao and Yunyi Zhang and Jiawei Han and Jamie Callan",
            year: 2021,
            place: Arxiv("2101.06983"),
        },
    ),
    (
        &["ContrastiveLoss"],
        Paper {
            key: "hadsell2006dimensionality",
            title: "Dimensionality Reduction by Learning an Invariant Mapping",
            authors: "Raia Hadsell and Sumit Chopra and Yann LeCun",
            year: 2006,
            place: Doi("10.1109/CVPR.2006.100"),
        },
    ),
    (
        &["CoSENTLoss"],
        Paper {
            key: "huang2024cosent",
            title: "CoSENT: Consistent Sentence Embedding via Similarity Ranking",
            authors: "Xiang Huang and Hao Peng and Dongcheng Zou and Zhiwei Liu and Jianxin Li and Kay Liu and Jia Wu and Jianlin Su and Philip S. Yu",
            year: 2024,
            place: Doi("10.1109/TASLP.2024.3402087"),
        },
    ),
    (
        &["DistillKLDivLoss"],
        Paper {
            key: "lin2020distilling",
            title: "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers",
            authors: "Sheng-Chieh Lin and Jheng-Hong Yang and Jimmy Lin",
            year: 2020,
            place: Arxiv("2010.11386"),
        },
    ),
    (
        &["EmbedDistillLoss"],
        Paper {
            key: "kim2023embeddistill",
            title: "EmbedDistill: A Geometric Knowledge Distillation for Information Retrieval",
            authors: "Seungyeon Kim and Ankit Singh Rawat and Manzil Zaheer and Sadeep Jayasumana and Veeranjaneyulu Sadhanala and Wittawat Jitkrittum and Aditya Krishna Menon and Rob Fergus and Sanjiv Kumar",
            year: 2023,
            place: Arxiv("2301.12005"),
        },
    ),
    (
        &["GISTEmbedLoss"],
        Paper {
            key: "solatorio2024gistembed",
            title: "GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning",
            authors: "Aivin V. Solatorio",
            year: 2024,
            place: Arxiv("2402.16829"),
        },
    ),
    (
        &["GlobalOrthogonalRegularizationLoss"],
        Paper {
            key: "zhang2017spreadout",
            title: "Learning Spread-out Local Feature Descriptors",
            authors: "Xu Zhang and Felix X. Yu and Sanjiv Kumar and Shih-Fu Chang",
            year: 2017,
            place: Arxiv("1708.06320"),
        },
    ),
    (
        &["MarginMSELoss"],
        Paper {
            key: "hofstatter2021improving",
            title: "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
            authors: "Sebastian Hofstätter and Sophia Althammer and Michael Schröder and Mete Sertkan and Allan Hanbury",
            year: 2020,
            place: Arxiv("2010.02666"),
        },
    ),
    (
        &["MatryoshkaLoss"],
        Paper {
            key: "kusupati2024matryoshka",
            title: "Matryoshka Representation Learning",
            authors: "Aditya Kusupati and Gantavya Bhatt and Aniket Rege and Matthew Wallingford and Aditya Sinha and Vivek Ramanujan and William Howard-Snyder and Kaifeng Chen and Sham Kakade and Prateek Jain and Ali Farhadi",
            year: 2022,
            place: Arxiv("2205.13147"),
        },
    ),
    (
        &["MegaBatchMarginLoss"],
        Paper {
            key: "wieting-gimpel-2018-paranmt",
            title: "{P}ara{NMT}-50{M}: Pushing the Limits of Paraphrastic Sentence Embeddings with Millions of Machine Translations",
            authors: "John Wieting and Kevin Gimpel",
            year: 2018,
            place: Doi("10.18653/v1/P18-1042"),
        },
    ),
    (
        &["MSELoss"],
        Paper {
            key: "reimers-2020-multilingual-sentence-bert",
            title: "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
            authors: "Nils Reimers and Iryna Gurevych",
            year: 2020,
            place: Arxiv("2004.09813"),
        },
    ),
    (
        &["MultipleNegativesRankingLoss"],
        Paper {
            key: "li2023general",
            title: "Towards General Text Embeddings with Multi-stage Contrastive Learning",
            authors: "Zehan Li and Xin Zhang and Yanzhao Zhang and Dingkun Long and Pengjun Xie and Meishan Zhang",
            year: 2023,
            place: Arxiv("2308.03281"),
        },
    ),
];
