"""The RabbitMQ transport."""
