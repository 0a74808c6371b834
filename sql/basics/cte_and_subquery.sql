-- Common table expressions and sub-queries: name the steps of one query where they are used.

CREATE UNBOUNDED EXTERNAL TABLE flights (dep_delay INT, arr_delay INT, carrier STRING, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW cte_and_subquery OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
WITH arrived AS (
  SELECT origin, carrier, dep_delay - arr_delay AS made_up FROM STREAM flights WHERE arr_delay IS NOT NULL
)
SELECT origin, flights, made_up
FROM (SELECT origin, count(*) AS flights, sum(made_up) AS made_up FROM arrived GROUP BY origin) AS totals
WHERE flights > 100
ORDER BY origin;
