-- What a flow remembers is a table: here the counts after its second batch, and what its last batch changed.

CREATE UNBOUNDED EXTERNAL TABLE flights (carrier STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '7');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW by_carrier OUTPUT MODE update TRIGGER AVAILABLE NOW
  CHECKPOINT 'out/state/checkpoint'
AS INSERT INTO answer
SELECT carrier, count(*) AS flights
FROM STREAM flights
GROUP BY carrier;

SELECT key.carrier AS carrier, value FROM state('by_carrier', batch_id => 1) ORDER BY carrier;

SELECT change_type, key.carrier AS carrier, value FROM state_changes('by_carrier', 3, 3) ORDER BY carrier;

SELECT operator, name, store, max_batch_id FROM state_metadata('by_carrier');
