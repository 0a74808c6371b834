-- Nexmark q4, average price by category: of the bids that win. An auction is taken to last a minute at most: its
-- winner is known when the watermark has passed that, and then counts, once. A second flow averages the winners.

CREATE UNBOUNDED EXTERNAL TABLE auction (
  id BIGINT, date_time TIMESTAMP, expires TIMESTAMP, category BIGINT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/auction/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, price BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE final_prices STORED AS PARQUET LOCATION 'out/nexmark/q4/';
CREATE EXTERNAL TABLE averages STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW q4_final_prices OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO final_prices
SELECT id, category, max(price) AS final_price
FROM (
  SELECT a.id, a.category, a.date_time, b.price
  FROM STREAM auction AS a
  JOIN STREAM bid AS b
    ON a.id = b.auction AND b.date_time >= a.date_time AND b.date_time <= a.expires
    AND b.date_time <= a.date_time + INTERVAL '1' MINUTE
) AS valid_bids
GROUP BY date_time, id, category;

CREATE FLOW q4 OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO averages
SELECT category, avg(final_price) AS average_price
FROM STREAM final_prices WITH ('maxFilesPerTrigger' '2')
GROUP BY category;
