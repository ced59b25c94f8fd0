"""Kubernetes objects: JobSet with Kueue, LeaderWorkerSet, KServe, KubeRay, HyperPod, charts."""
