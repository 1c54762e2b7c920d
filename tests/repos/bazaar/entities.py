"""The keys of the bazaar. Feast gives an entity one join key: a composite key is several entities."""

from feast import Entity, ValueType

vendor = Entity(name="vendor", value_type=ValueType.STRING)
sku = Entity(name="sku", value_type=ValueType.INT32)
sample = Entity(name="sample", join_keys=["sample_id"], value_type=ValueType.STRING)
order = Entity(name="order", join_keys=["order_id"], value_type=ValueType.INT64)
line = Entity(name="line", join_keys=["line_no"], value_type=ValueType.INT32)
region = Entity(name="region", value_type=ValueType.STRING)
customer = Entity(name="customer", value_type=ValueType.STRING)
warehouse = Entity(name="warehouse", value_type=ValueType.STRING)
badge = Entity(name="badge", join_keys=["token"], value_type=ValueType.BYTES)
