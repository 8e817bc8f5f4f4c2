-- A session as a program of layout 2 and schema_version 2 left it, two turns long, released.
INSERT INTO test.sessions (tenant, session_id, schema_version, life, born, epoch, token, incarnation, slot, address, takeovers, running, suspects, turn_seq, last_turn_id, deleted, state, expires_ms, sweep_hour, hot)
VALUES ('red', 'golden', 2, 900000001, 1700000000000, 1700000000001, '', '', '', '', 0, '', '{}', 2, '\x723a3200', false, '{"n":1}', 4102444800000, 1139568, false);
INSERT INTO test.turns (life, turn_seq, turn_id, fingerprint, record)
VALUES
  (900000001, 1, 'k:1', 'ffffffffffffffffffffffffffffffff', '\x0201000000037265640068e5cf8b0100007b68e5cf8b0100000e0000000b000000000300100e0000006b3a31ffffffffffffffffffffffffffffffff48656c6c6f2c20e697a5e69cac217265706c7920226f6e65227b2261223a5b312c6e756c6c5d7d'),
  (900000001, 2, '\x723a3200', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', '\x0202000000037265640168e5cf8b010000c869e5cf8b01000009000000070000000004001000000000723a3200eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee6d65737361676520327265706c792032');
