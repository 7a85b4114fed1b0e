//! The queues and the exchange for outbound events, declared in one place by whoever deploys; services only look whether
//! they are there.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::config::{BrokerConfig, BrokerError, answered};
use crate::outbox::{OUTBOUND_EXCHANGE, Topic};

/// Returns of a message after which the broker gives it up. It only ends crash loops: the inbox parks long before.
const DELIVERY_LIMIT: i32 = 50;

/// Where the broker puts what exceeded the delivery limit. It must stay empty.
pub fn dead_letter_queue(topic: Topic) -> String {
    format!("{topic}.dead")
}

/// Declares everything, on a connection of its own, since what exists with other arguments closes it.
pub async fn declare_topology(config: &BrokerConfig) -> Result<(), BrokerError> {
    let connection = config.connect("parapet topology").await?;
    let channel = answered(connection.create_channel()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for &topic in Topic::ALL {
        let dead = dead_letter_queue(topic);
        answered(channel.queue_declare(dead.as_str().into(), durable, quorum())).await?;
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.into()));
        answered(channel.queue_declare(topic.as_str().into(), durable, arguments)).await?;
    }
    // What is bound to it is others' business: no queue of ours waits behind it.
    let kept = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let exchange = OUTBOUND_EXCHANGE.into();
    answered(channel.exchange_declare(exchange, ExchangeKind::Topic, kept, FieldTable::default())).await?;
    answered(connection.close(200, "done".into())).await?;
    Ok(())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}
