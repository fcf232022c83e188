"""What TaskQueues ask of a virtual host of RabbitMQ, and how far it is from that.

`queues` knows arguments, `policies` knows definitions and patterns. The plan and the conditions are made of
both. Nothing here knows how RabbitMQ is asked.
"""
