-- Nexmark q6, average selling price by seller: of the last ten of his auctions that are over. An auction is taken to
-- last a minute at most: its winner is known when the watermark has passed that. A second flow keeps each seller's
-- prices, all of them, and averages the last ten.

CREATE UNBOUNDED EXTERNAL TABLE auction (
  id BIGINT, date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/auction/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, price BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE sales STORED AS PARQUET LOCATION 'out/nexmark/q6/';
CREATE EXTERNAL TABLE averages STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW q6_sales OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO sales
SELECT id, seller, expires, max(price) AS final_price
FROM (
  SELECT a.id, a.seller, a.date_time, a.expires, b.price
  FROM STREAM auction AS a
  JOIN STREAM bid AS b
    ON a.id = b.auction AND b.date_time >= a.date_time AND b.date_time <= a.expires
    AND b.date_time <= a.date_time + INTERVAL '1' MINUTE
) AS valid_bids
GROUP BY date_time, id, seller, expires;

CREATE FLOW q6 OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO averages
SELECT seller, array_avg(array_slice(array_agg(final_price ORDER BY expires DESC, id DESC), 1, 10)) AS average_price
FROM STREAM sales WITH ('maxFilesPerTrigger' '2')
GROUP BY seller;
