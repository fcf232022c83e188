"""RabbitMQ for the operator: `topology` declares and looks by AMQP, `management` reads and writes by HTTP.

`adapters.brokers` calls both, from a broker's poller thread and for actions.
"""
