-- CREATE MATERIALIZED VIEW keeps a query's result up to date, batch by batch, and can be queried.
-- It runs in complete mode if it aggregates, in append mode otherwise. SET gives the trigger of flows that name none.

SET trigger = 'available now';

CREATE UNBOUNDED EXTERNAL TABLE flights (carrier STRING, distance INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE MATERIALIZED VIEW carrier_miles AS
SELECT carrier, count(*) AS flights, sum(distance) AS miles FROM STREAM flights GROUP BY carrier;

SELECT carrier, flights, miles FROM carrier_miles ORDER BY miles DESC LIMIT 3;
