"""The operator: it observes jobs, members and agents, decides, applies and reports. It never imports torch, trainer or agent."""
