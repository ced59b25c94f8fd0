"""Is the fabric that the plan assumed there? Measured inside the allocation, before the job."""
