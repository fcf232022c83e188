"""The operator: it turns TaskQueues, WorkerPools and Schedules into running workers."""
