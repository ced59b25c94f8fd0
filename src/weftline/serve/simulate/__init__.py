"""A fleet under real traffic, request by request: the step surface, traces, queues, caches."""
