"""The frozen nouns that every room speaks."""

from weftline.spec.attention import AttentionPolicy, Rule
from weftline.spec.cluster import Cluster, HostPath, Level
from weftline.spec.estimate import Estimate
from weftline.spec.job import (
    ANY,
    OBJECTIVES,
    PRECISIONS,
    PRICE_CHOICES,
    PRICE_TYPES,
    TUNES,
    Job,
    Objective,
    Precision,
    PriceType,
    Tune,
)
from weftline.spec.layout import (
    DEFAULT_ORDER,
    PARTS,
    PIPELINE_INSIDE,
    RECOMPUTES,
    Axis,
    Layout,
    Recompute,
    Schedule,
)
from weftline.spec.measurement import MEASURED_HERE, Measurement
from weftline.spec.plan import (
    BreakEven,
    Candidate,
    MeasuredRun,
    Part,
    Plan,
    PriceQuote,
    Rejection,
    SearchStats,
)
from weftline.spec.rank_map import RankMap
from weftline.spec.serve_job import ROUTINGS, Routing, ServeJob, ServeSpace
from weftline.spec.serve_plan import (
    METRICS,
    Fleet,
    Metric,
    ServeCandidate,
    ServeDemand,
    ServePlan,
    ServeSearch,
    Target,
)
from weftline.spec.traffic import Traffic

__all__ = [
    "ANY",
    "DEFAULT_ORDER",
    "MEASURED_HERE",
    "METRICS",
    "OBJECTIVES",
    "PARTS",
    "PIPELINE_INSIDE",
    "PRECISIONS",
    "PRICE_CHOICES",
    "PRICE_TYPES",
    "RECOMPUTES",
    "ROUTINGS",
    "TUNES",
    "AttentionPolicy",
    "Axis",
    "BreakEven",
    "Candidate",
    "Cluster",
    "Estimate",
    "Fleet",
    "HostPath",
    "Job",
    "Layout",
    "Level",
    "MeasuredRun",
    "Measurement",
    "Metric",
    "Objective",
    "Part",
    "Plan",
    "Precision",
    "PriceQuote",
    "PriceType",
    "RankMap",
    "Recompute",
    "Rejection",
    "Routing",
    "Rule",
    "Schedule",
    "SearchStats",
    "ServeCandidate",
    "ServeDemand",
    "ServeJob",
    "ServePlan",
    "ServeSearch",
    "ServeSpace",
    "Target",
    "Traffic",
    "Tune",
]
